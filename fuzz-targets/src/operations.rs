//! Target `operations`: guests, an administrator, faults and crashes as a script says, on the simulator's world
//! with its model beside it.

/// Half of the script at most is for the disks' faults.
///
/// # Panics
/// When a promise is broken.
pub fn run(bytes: &[u8]) {
    if let Err(what) = vdi_core::sim::run_script(bytes) {
        panic!("a promise is broken: {what}");
    }
}
