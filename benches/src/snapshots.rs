//! Snapshots through the control socket, timed as an administrator sees them.

use std::io;
use std::time::{Duration, Instant};

use qemu_harness::control::Control;

use crate::histogram::Histogram;

/// Take one snapshot of `vdi`; the time from asking to the answer, nanoseconds.
///
/// # Errors
/// Whatever the daemon answers.
pub fn take(control: &mut Control, vdi: &str) -> io::Result<u64> {
    let (_, took) = control.snapshot(vdi).map_err(io::Error::other)?;
    Ok(took.as_nanos() as u64)
}

/// Take a snapshot at each tick of `every` for `duration`. A tick that passes while one is taken is not made up
/// for, so the histogram's total says how many there were.
///
/// # Errors
/// Whatever the daemon answers.
pub fn take_at_rate(
    control: &mut Control,
    vdi: &str,
    every: Duration,
    duration: Duration,
) -> io::Result<Histogram> {
    let mut latency = Histogram::default();
    let start = Instant::now();
    let mut tick = 0u32;
    while start.elapsed() < duration {
        let due = every * tick;
        match due.checked_sub(start.elapsed()) {
            Some(early) => std::thread::sleep(early),
            None => tick = (start.elapsed().as_nanos() / every.as_nanos()) as u32,
        }
        latency.record(take(control, vdi)?);
        tick += 1;
    }
    Ok(latency)
}
