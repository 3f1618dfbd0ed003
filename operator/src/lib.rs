//! `lamina-operator`.
