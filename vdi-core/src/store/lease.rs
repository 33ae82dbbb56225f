//! Who may change what. While one host is all there is, the device's OFD lock keeps every other
//! daemon out, and within the daemon this lock keeps registry changes one at a time. The calls are
//! those of the many-hosts protocol to come.

use crate::executor::{TaskGuard, TaskLock};

/// The store-wide registry lock: create, rename and delete hold it.
#[derive(Clone, Default)]
pub struct StoreLease {
    registry: TaskLock,
}

impl StoreLease {
    /// Hold the registry lock until the guard is dropped.
    pub async fn lock_registry(&self) -> TaskGuard {
        self.registry.lock().await
    }
}
