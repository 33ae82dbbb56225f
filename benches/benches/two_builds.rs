//! Is one build slower than another? Both serve a disk at the same time, and rounds take turns. `make bench-compare` builds two
//! commits for it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use parallax_benches::load::{Load, Order};
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::ratios::Ratio;
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Fill, Numbers, Target, measure};

const SPAN_BYTES: u64 = 1 << 30;
/// Less than that is not called slower.
const NOTICED: f64 = 0.02;

fn main() -> io::Result<ExitCode> {
    let builds = words("PARALLAX_BENCH_BUILDS", "");
    let [a, b] = builds.as_slice() else {
        println!(
            "two_builds: skipped; PARALLAX_BENCH_BUILDS names no two folders of programs ('make bench-compare A=… B=…')"
        );
        return Ok(ExitCode::SUCCESS);
    };
    let place = Place::open("two-builds")?;
    let rounds = number("PARALLAX_BENCH_ROUNDS", 12);
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 1000));
    pin_client();
    let start = |name: &str, bins: &str| {
        let dir = place.dir.join(name);
        std::fs::create_dir_all(&dir)?;
        Parallax::start(Options {
            dir,
            store_bytes: 6 * SPAN_BYTES,
            log_size: "1G".into(),
            vdi_bytes: SPAN_BYTES,
            pin: true,
            late_checkpoints: false,
            null: false,
            bins: Some(PathBuf::from(bins)),
        })
    };
    let mut targets = [start("parallax-a", a)?, start("parallax-b", b)?];
    let mut slower = false;
    println!("B against A, {rounds} pairs; more than 1 is faster, or more CPU");
    for (name, load) in works(time) {
        let mut results: [Vec<Numbers>; 2] = Default::default();
        for round in 0..rounds {
            // Who is first changes with each round.
            let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
            for which in order {
                let target = &mut targets[which];
                target.prepare(Fill::Overwrite)?;
                let measured = measure(target, &Load { seed: round + 1, ..load })?;
                results[which].push((&measured).into());
            }
        }
        let of = |f: &dyn Fn(&Numbers) -> f64| {
            let each = |r: &[Numbers]| r.iter().map(f).collect::<Vec<f64>>();
            Ratio::of(&each(&results[1]), &each(&results[0]))
        };
        let (speed, cpu) = (of(&|n| n.mbps), of(&|n| n.cpu_us_per_io));
        let is_slower = speed.is_some_and(|r| r.is_certain() && r.high < 1.0 - NOTICED);
        let is_dearer = cpu.is_some_and(|r| r.is_certain() && r.low > 1.0 + NOTICED);
        slower |= is_slower || is_dearer;
        for (metric, ratio, worse) in [("speed", speed, is_slower), ("cpu_per_io", cpu, is_dearer)] {
            if let Some(ratio) = ratio {
                println!("{name:26} {metric:10} {ratio}{}", if worse { "  WORSE" } else { "" });
            }
        }
    }
    println!(
        "{}",
        if slower { "B is slower than A" } else { "B is not slower than A, as far as these rounds can tell" }
    );
    Ok(if slower { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn works(time: Duration) -> [(&'static str, Load); 6] {
    let random = |read_percent, depth| Load::random(read_percent, depth, SPAN_BYTES, time);
    let sequential =
        |read_percent| Load { block_bytes: 128 << 10, order: Order::Sequential, ..random(read_percent, 8) };
    [
        ("randread-4k-qd1", random(100, 1)),
        ("randread-4k-qd32", random(100, 32)),
        ("randwrite-4k-qd1", random(0, 1)),
        ("randwrite-4k-qd32", random(0, 32)),
        ("seqread-128k-qd8", sequential(100)),
        ("seqwrite-128k-qd8", sequential(0)),
    ]
}
