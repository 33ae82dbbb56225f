//! Real guests on our disks: boots a Linux guest under QEMU with vhost-user-blk disks, runs jobs in it
//! through an agent, pulls the plug on the daemon or on QEMU, and reads back what the guest sees.
//!
//! The guest is made by the recipes in `images/`. Emulation (TCG) is the default; KVM is used only where
//! a real guest has proved to boot with it ([`accel`]). The disks may come from the Parallax daemon
//! ([`daemon`]) or from QEMU's own storage daemon ([`storage_daemon`]), the reference peer.
//!
//! Invariants: every wait has a deadline; every child dies with the value that owns it and with this
//! process; a failure carries the end of the guest's serial log. What cannot run on a machine is a
//! [`tools::Missing`] with its reason, never a silent pass.

pub mod accel;
pub mod agent;
pub mod cloud_hypervisor;
pub mod control;
pub mod daemon;
pub mod demo;
pub mod error;
pub mod image;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod scratch;
pub mod storage_daemon;
pub mod tools;
pub mod wait;

pub use error::{Error, Result};
pub use machine::{Disk, Machine, MachineConfig};
pub use scratch::Scratch;
pub use tools::{Missing, Tools};
