//! The limit: `fio` with io_uring and O_DIRECT on a plain file of the same file system, without any daemon between.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::block_device::BlockDevice;
use crate::load::{Load, Order};
use crate::numbers::Numbers;
use crate::place::{root, written_file};
use crate::process::{Daemon, cores, run};
use crate::target::{Fill, Target};

/// A file for `fio`.
pub struct Direct {
    fio: PathBuf,
    file: PathBuf,
    size_bytes: u64,
}

impl Direct {
    /// For rows.
    pub const NAME: &str = "fio-direct";

    /// A file of `size_bytes` in `dir`, written in full. None where there is no `fio`: that of the guest image is used.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn start(dir: &Path, size_bytes: u64) -> io::Result<Option<Direct>> {
        let tools = std::env::var_os("PARALLAX_GUEST_DIR");
        let fio = tools.map_or_else(|| root().join("target/tools/guest"), PathBuf::from).join("fio");
        if !fio.exists() {
            println!("no fio-direct: {} is not there (run 'make setup')", fio.display());
            return Ok(None);
        }
        let direct = Direct { fio, file: dir.join("direct"), size_bytes };
        written_file(&direct.file, size_bytes)?;
        Ok(Some(direct))
    }
    /// Whether it has a disk that is filled so: a file written before is all it has.
    #[must_use]
    pub fn has(fill: Fill) -> bool {
        matches!(fill, Fill::Overwrite | Fill::InOrder)
    }
    /// Do `load`. None for loads that are not steady: blocks written once.
    fn run(&self, load: &Load) -> io::Result<Option<Numbers>> {
        let sequential = match load.order {
            Order::Random => false,
            Order::Sequential => true,
            Order::Once | Order::Fill => return Ok(None),
        };
        let pattern = match (sequential, load.read_percent) {
            (true, 100) => "read",
            (true, 0) => "write",
            (true, _) => "rw",
            (false, 100) => "randread",
            (false, 0) => "randwrite",
            (false, _) => "randrw",
        };
        let mut words = vec![
            format!("--rw={pattern}"),
            format!("--rwmixread={}", load.read_percent),
            format!("--bs={}", load.block_bytes),
            format!("--iodepth={}", load.depth),
            format!("--runtime={}", load.duration.as_secs_f64()),
            format!("--randseed={}", load.seed >> 1),
            "--time_based".into(),
            "--norandommap".into(),
        ];
        words.extend(load.flush_every.map(|n| format!("--fdatasync={n}")));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let report = self.fio(&words)?;
        numbers(&report).map(Some)
    }
    fn fio(&self, words: &[&str]) -> io::Result<Value> {
        let (fio, file) = (self.fio.display().to_string(), format!("--filename={}", self.file.display()));
        let size = format!("--size={}", self.size_bytes);
        // Whatever the client is pinned to.
        let cores = format!("0-{}", cores() - 1);
        let fixed = [
            "taskset",
            "-c",
            &cores,
            fio.as_str(),
            "--name=direct",
            &file,
            &size,
            "--ioengine=io_uring",
            "--direct=1",
            "--output-format=json",
            "--lat_percentiles=1",
            "--clat_percentiles=0",
            "--percentile_list=50:99:99.9",
        ];
        let text = run(&[&fixed[..], words].concat())?;
        // Notes come before the report.
        let report = text.find('{').map(|at| &text[at..]).unwrap_or_default();
        serde_json::from_str(report).map_err(|e| io::Error::other(format!("fio's report: {e}")))
    }
}

fn numbers(report: &Value) -> io::Result<Numbers> {
    let job = &report["jobs"][0];
    let sides = || ["read", "write"].into_iter().map(|side| &job[side]);
    let sum = |field: &str| sides().filter_map(|s| s[field].as_f64()).sum::<f64>();
    let ios = sum("total_ios");
    // Of a mix the slower side.
    let quantile_us = |q: &str| {
        let of = |s: &Value| s["lat_ns"]["percentile"][q].as_f64();
        sides().filter_map(of).fold(0.0, f64::max) / 1e3
    };
    if ios == 0.0 {
        return Err(io::Error::other("fio did nothing"));
    }
    Ok(Numbers {
        iops: sum("iops"),
        mbps: sum("bw_bytes") / 1e6,
        p50_us: quantile_us("50.000000"),
        p99_us: quantile_us("99.000000"),
        p999_us: quantile_us("99.900000"),
        ..Numbers::default()
    })
}

impl Target for Direct {
    fn name(&self) -> &str {
        Direct::NAME
    }
    fn daemon(&self) -> Option<&Daemon> {
        None
    }
    fn prepare(&mut self, fill: Fill) -> io::Result<bool> {
        Ok(Direct::has(fill))
    }
    fn measure(&mut self, load: &Load, _: Option<&BlockDevice>) -> io::Result<Option<Numbers>> {
        self.run(load)
    }
}
