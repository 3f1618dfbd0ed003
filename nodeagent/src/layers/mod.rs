//! Image layers as a node keeps them whole, for itself and for other nodes.

mod open;

pub use open::{OpenLayer, WholeLayers};
