//! A real block device: a loop device, where the test may make one.

use std::process::Command;

use super::*;
use crate::buffer::AlignedBuf;

struct Loop(String);

impl Loop {
    fn over(path: &str) -> Option<Loop> {
        let out = Command::new("losetup").args(["--find", "--show", path]).output().ok()?;
        out.status.success().then(|| Loop(String::from_utf8(out.stdout).unwrap().trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_block_device_has_its_size_takes_io_and_discards() {
    let scratch = Scratch::new();
    let url = scratch.file("f", 8 << 20);
    let Some(device) = Loop::over(&url) else {
        return skipped("a_block_device_has_its_size_takes_io_and_discards");
    };
    for method in METHODS {
        let options = OpenOptions { lock: Some(0..4096), ..with(method) };
        run(&device.0, &options, |d| async move {
            assert_eq!(d.info().len_bytes, 8 << 20);
            assert!(d.info().mode.ends_with("O_DIRECT"), "{}", d.info().mode);
            d.write(4096, AlignedBuf::copy_of(&[7; 4096])).await.unwrap();
            d.flush().await.unwrap();
            assert_eq!(d.read(4096, 4096).await.unwrap()[..], [7; 4096]);
            assert!(d.info().discard);
            d.discard(4096, 4096).await.unwrap();
            assert_eq!(d.read(4096, 4096).await.unwrap()[..], [0; 4096]);
        });
    }
}

/// As `parallax_tests::skipped`, which is out of reach from here.
fn skipped(test: &str) {
    use std::io::Write;
    eprintln!("SKIPPED {test}: no loop device can be made here (needs root and losetup)");
    let Ok(path) = std::env::var("PARALLAX_SKIPPED") else { return };
    let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
    writeln!(file, "{test}\tno loop device can be made here (needs root and losetup)").unwrap();
}
