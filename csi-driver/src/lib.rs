//! `lamina-csi`.
