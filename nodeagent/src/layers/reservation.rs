//! Room for what is being written, given back when it is not needed.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lamina_image::convert::Room;

use super::ledger::{Ledger, NoRoom};
use super::shelf::Inner;

/// What is asked for at once when something grows beyond what was expected.
const STEP: u64 = 16 << 20;

/// Room on the shelf.
pub struct Reservation {
    shelf: Arc<Inner>,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    reserved: u64,
    unwritten: u64,
}

impl Reservation {
    pub(super) fn of(shelf: &Arc<Inner>, bytes: u64) -> Result<Self, NoRoom> {
        shelf.reserve(bytes)?;
        let books = Books {
            reserved: bytes,
            unwritten: bytes,
        };
        Ok(Self {
            shelf: Arc::clone(shelf),
            books: Mutex::new(books),
        })
    }

    /// Gives all of it back: what was written is on the shelf, or nowhere.
    pub(super) fn give_back(&self, ledger: &mut Ledger) {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        let Books {
            reserved,
            unwritten,
        } = std::mem::take(&mut *books);
        ledger.unreserve(reserved, unwritten);
    }

    fn grow(&self, books: &mut Books, missing: u64) -> Result<(), NoRoom> {
        let step = missing.max(STEP);
        let grown = match self.shelf.reserve(step) {
            Ok(()) => step,
            // The last bit may still fit.
            Err(_) if step > missing => self.shelf.reserve(missing).map(|()| missing)?,
            Err(error) => return Err(error),
        };
        books.reserved += grown;
        books.unwritten += grown;
        Ok(())
    }
}

impl Room for Reservation {
    fn take(&self, bytes: u64) -> io::Result<()> {
        let mut books = self.books.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(missing) = bytes.checked_sub(books.unwritten).filter(|more| *more > 0) {
            let grown = self.grow(&mut books, missing);
            grown.map_err(|error| io::Error::new(io::ErrorKind::QuotaExceeded, error))?;
        }
        books.unwritten -= bytes;
        self.shelf.ledger().written(bytes);
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(&mut self.shelf.ledger());
    }
}
