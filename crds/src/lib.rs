//! The Kubernetes vocabulary: kinds of the API group `lamina.dev/v1alpha1`.
