//! Reserve: space in the ring and memory to stage it, granted in order of arrival.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{Log, count};
use crate::error::{Error, ErrorKind, Result};
use crate::format::segment::head_area_bytes;
use crate::units::BLOCK_BYTES;

/// Room for one record and its data; given back when dropped unused.
#[must_use = "dropping a reservation gives it back"]
pub struct Reservation {
    log: Log,
    pub(super) record_bytes: usize,
    pub(super) data_blocks: u32,
    charge_bytes: u64,
}

/// A reservation that waits.
pub(super) struct Waiter {
    pub charge_bytes: u64,
    granted: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Waiter {
    pub fn grant(&self) -> Option<Waker> {
        self.granted.set(true);
        self.take_waker()
    }
    pub fn take_waker(&self) -> Option<Waker> {
        self.waker.borrow_mut().take()
    }
}

/// Ring bytes for one record as if it were alone in its segment.
pub(super) fn charge_bytes(record_bytes: usize, data_blocks: u32) -> u64 {
    head_area_bytes(record_bytes) as u64 + u64::from(data_blocks) * BLOCK_BYTES
}

impl Log {
    /// Wait for room for a record of `record_bytes` ([`Record::encoded_bytes`](super::Record)) with
    /// `data_blocks` blocks of inline data. First come, first served.
    ///
    /// [`ErrorKind::TooLarge`] beyond [`Log::reservation_max`]; [`ErrorKind::Poisoned`] after a failure.
    pub async fn reserve(&self, record_bytes: usize, data_blocks: u32) -> Result<Reservation> {
        let (bytes_max, blocks_max) = self.reservation_max();
        if record_bytes > bytes_max || data_blocks > blocks_max {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "a log record of {record_bytes} bytes with {data_blocks} blocks; at most {bytes_max} and {blocks_max} fit"
                ),
                "split the request, or use a larger log",
            ));
        }
        let charge_bytes = charge_bytes(record_bytes, data_blocks);
        let waiter = {
            let mut s = self.0.state.borrow_mut();
            s.check()?;
            if s.waiters.is_empty() && s.fits(charge_bytes) {
                s.reserved_bytes += charge_bytes;
                None
            } else {
                let waiter =
                    Rc::new(Waiter { charge_bytes, granted: Cell::new(false), waker: RefCell::new(None) });
                s.waiters.push_back(Rc::clone(&waiter));
                Some(waiter)
            }
        };
        if let Some(waiter) = waiter {
            count(&self.0.counts.waits, 1);
            Waiting { log: self, waiter, taken: false }.await?;
        }
        Ok(Reservation { log: self.clone(), record_bytes, data_blocks, charge_bytes })
    }
    fn give_back(&self, charge_bytes: u64) {
        let wakers = {
            let mut s = self.0.state.borrow_mut();
            s.reserved_bytes = s.reserved_bytes.checked_sub(charge_bytes).expect("given back once");
            s.grant()
        };
        for waker in wakers {
            waker.wake();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.log.give_back(self.charge_bytes);
    }
}

struct Waiting<'a> {
    log: &'a Log,
    waiter: Rc<Waiter>,
    taken: bool,
}

impl Future for Waiting<'_> {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        self.log.check()?;
        if self.waiter.granted.get() {
            self.taken = true;
            return Poll::Ready(Ok(()));
        }
        *self.waiter.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        if self.waiter.granted.get() {
            self.log.give_back(self.waiter.charge_bytes);
            return;
        }
        let mut s = self.log.0.state.borrow_mut();
        s.waiters.retain(|w| !Rc::ptr_eq(w, &self.waiter));
        let wakers = s.grant();
        drop(s);
        for waker in wakers {
            waker.wake();
        }
    }
}
