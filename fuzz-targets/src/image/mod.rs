//! Images of a store and its log: made once by the engine itself, then damaged, sealed again and used.

mod base;
mod damage;
mod exercise;
mod reseal;

pub use base::{Base, Image, LOG_BYTES, STORE_BYTES, with_base};
pub use damage::damage;
pub use exercise::{Verdict, check, exercise};
pub use reseal::{reseal_log, reseal_store};
