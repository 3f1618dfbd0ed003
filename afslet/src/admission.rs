//! Who may run: CPU, memory and places are reserved before any work, and given back when the reservation is dropped.
//!
//! What always holds: what is reserved never exceeds the limits; what could never fit is told from what does not fit
//! now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Code;

use crate::error::RunError;
use crate::limits::Limits;

/// What of the limits is in use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Used {
    /// Processors.
    pub cpu_cores: u64,
    /// Mebibytes.
    pub memory_mb: u64,
    /// Runs.
    pub runs: usize,
}

/// The books of an afslet; clones are the same ones.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    limits: Limits,
    used: Arc<Mutex<Used>>,
}

/// A place for one run.
#[derive(Debug)]
pub(crate) struct Reservation {
    admission: Admission,
    cpu_cores: u64,
    memory_mb: u64,
}

impl Admission {
    /// Nothing is in use.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            used: Arc::default(),
        }
    }

    /// What is in use.
    pub(crate) fn used(&self) -> Used {
        *self.books()
    }

    /// Reserves a place.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what can never fit here, `RESOURCE_EXHAUSTED` for what does not fit now.
    pub(crate) fn reserve(&self, cpu_cores: u64, memory_mb: u64) -> Result<Reservation, RunError> {
        let limits = &self.limits;
        for (name, wanted, all) in [
            ("cpu_cores", cpu_cores, limits.cpu_cores),
            ("memory_mb", memory_mb, limits.memory_mb),
        ] {
            if wanted > all {
                let why = format!("{name}: {wanted} can never fit here, this node gives {all}");
                return Err(RunError::invalid(why));
            }
        }
        let mut used = self.books();
        let free_cpu = limits.cpu_cores - used.cpu_cores;
        let free_memory = limits.memory_mb - used.memory_mb;
        if cpu_cores > free_cpu || memory_mb > free_memory || used.runs >= limits.runs {
            let why = format!(
                "no room now for cpu_cores {cpu_cores} and memory_mb {memory_mb}: {free_cpu} and {free_memory} are \
                 free, and {} of {} places",
                limits.runs - used.runs,
                limits.runs
            );
            return Err(RunError::new(Code::ResourceExhausted, why));
        }
        used.cpu_cores += cpu_cores;
        used.memory_mb += memory_mb;
        used.runs += 1;
        drop(used);
        Ok(Reservation {
            admission: self.clone(),
            cpu_cores,
            memory_mb,
        })
    }

    fn books(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut used = self.admission.books();
        used.cpu_cores -= self.cpu_cores;
        used.memory_mb -= self.memory_mb;
        used.runs -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Admission {
        Admission::new(Limits {
            cpu_cores: 4,
            memory_mb: 1000,
            runs: 3,
            ..Limits::default()
        })
    }

    #[test]
    fn what_can_never_fit_is_told_from_what_does_not_fit_now() {
        let admission = admission();
        let never = admission.reserve(5, 1).unwrap_err();
        assert_eq!(never.code(), Code::InvalidArgument);
        assert!(never.to_string().starts_with("cpu_cores: 5"), "{never}");
        let never = admission.reserve(1, 1001).unwrap_err();
        assert!(never.to_string().starts_with("memory_mb: 1001"), "{never}");
        let first = admission.reserve(3, 600).unwrap();
        for (cpu, memory) in [(2, 1), (1, 401)] {
            let later = admission.reserve(cpu, memory).unwrap_err();
            assert_eq!(later.code(), Code::ResourceExhausted);
            assert!(later.to_string().contains("1 and 400 are free"), "{later}");
        }
        let second = admission.reserve(1, 400).unwrap();
        drop((first, second));
        assert_eq!(admission.used(), Used::default());
    }

    #[test]
    fn places_are_bounded_too() {
        let admission = admission();
        let all: Vec<_> = (0..3).map(|_| admission.reserve(1, 1).unwrap()).collect();
        assert_eq!(
            admission.reserve(1, 1).unwrap_err().code(),
            Code::ResourceExhausted
        );
        drop(all);
        assert_eq!(admission.used(), Used::default());
    }
}
