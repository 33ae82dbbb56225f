//! Questions answered by measuring: one file per question under `benches/benches/`, run by `make bench`.
//!
//! Every question is asked over a real vhost-user socket with the `blkio` client, of `vhost-parallax` and, side
//! by side, of `qemu-storage-daemon`. Rounds are interleaved; what is kept is the median and the spread, one row
//! per number in `benches/runs/`. Nothing here asserts a speed: compare rows of two commits on one machine.

pub mod block_device;
pub mod chart;
pub mod contest;
pub mod direct;
pub mod disk;
pub mod histogram;
pub mod load;
pub mod numbers;
pub mod place;
pub mod process;
pub mod ratios;
pub mod rows;
pub mod settings;
pub mod snapshots;
pub mod stock;
pub mod target;
