//! One handler per operation: validate, ask the data thread, answer. The attribute of a handler is its
//! route and its page in the document.

pub mod attachments;
pub mod snapshots;
pub mod store;
pub mod vdis;
