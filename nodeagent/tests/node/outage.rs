//! What readers see when nobody can help them: errors in time, never zeros.
