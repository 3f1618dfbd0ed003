//! What every run of an afslet shares.

use std::sync::Arc;

use crate::admission::Admission;
use crate::drain::Drain;
use crate::images::Images;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::sandboxes::Sandboxes;

/// Clones are the same parts.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) node: Arc<str>,
    pub(crate) version: Arc<str>,
    pub(crate) limits: Limits,
    pub(crate) admission: Admission,
    pub(crate) images: Images,
    pub(crate) sandboxes: Arc<Sandboxes>,
    pub(crate) drain: Drain,
    pub(crate) metrics: Arc<Metrics>,
}
