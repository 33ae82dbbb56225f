//! Bounds of the control plane: nothing a client does can make the daemon hold more than these.

use std::time::Duration;

/// Longest path of a Unix socket, bytes (`sun_path` less its final zero).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// Largest request body, bytes. The largest legitimate one is a few hundred.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// Largest request line and headers together, bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most header lines in a request.
pub const HEADERS_MAX: usize = 64;
/// Connections served at once; further ones are answered with `unavailable`.
pub const CONNECTIONS_MAX: usize = 64;
/// Commands waiting for the data thread.
pub const COMMANDS_WAITING_MAX: usize = 64;
/// A request head must be complete this long after the connection opened or the last answer ended.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A request body must be complete this long after its head.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A client that takes no byte of its answer for this long is dropped.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// A command waits this long for room in the channel.
pub const COMMAND_ROOM_TIMEOUT: Duration = Duration::from_secs(10);
/// Queues of a front end at most.
pub const QUEUES_MAX: u16 = 64;
/// Queues of a front end where the administrator says nothing.
pub const QUEUES_DEFAULT: u16 = 1;

const _: () = {
    assert!(BODY_BYTES_MAX >= 4 * (vdi_core::limits::NAME_BYTES_MAX + vdi_core::limits::LABEL_BYTES_MAX));
    assert!(QUEUES_DEFAULT <= QUEUES_MAX);
};
