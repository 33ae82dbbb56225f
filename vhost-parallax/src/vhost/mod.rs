//! The vhost-user-blk device: sockets, protocol, guest memory, rings, requests, in-flight tracking.
//!
//! Every attached VDI has a [`Endpoint`]: a socket and a thread that speaks the protocol with one front
//! end at a time ([`session`]). The rings are served elsewhere, by the one data thread: a session
//! hands them over and takes them back through the seam ([`DataLink`], [`DataPort`]). The data thread takes
//! a validated [`Request`] from a [`Ring`], executes it, and completes it there.
//!
//! Knows nothing of the engine. Everything a front end or guest says is hostile until `session`,
//! `guest_memory`, `inflight`, `ring` and `request` have checked it; nothing is checked again past them.
//! What a guest or front end does wrong costs it its connection, or its device until it resets it, and
//! nothing else.

pub mod config;
pub mod device;
pub mod endpoint;
pub mod event;
pub mod features;
pub mod guest_memory;
pub mod inflight;
pub mod request;
pub mod ring;
pub mod seam;
pub mod session;

pub use device::{DeviceFacts, DeviceId, DeviceState};
pub use endpoint::{Endpoint, SocketAccess};
pub use event::Event;
pub use request::{Operation, Range, Reply, Request, Status};
pub use ring::{Next, Ring};
pub use seam::{DataLink, DataPort, Message, data_link};
