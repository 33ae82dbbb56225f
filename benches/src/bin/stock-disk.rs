//! `stock-disk SOCKET BYTES`: a null disk on the loop of `vhost-user-backend`, as a process of its own to be measured.

use std::path::PathBuf;

use parallax_benches::stock::{Content, serve};

fn main() -> std::io::Result<()> {
    let mut args = std::env::args().skip(1);
    let (socket, bytes) = (args.next(), args.next().and_then(|b| b.parse().ok()));
    let (Some(socket), Some(bytes)) = (socket, bytes) else {
        return Err(std::io::Error::other("usage: stock-disk SOCKET BYTES"));
    };
    serve(&PathBuf::from(socket), Content::Null(bytes))
}
