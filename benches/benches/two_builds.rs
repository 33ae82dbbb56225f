//! Is one build slower than another? Both serve a disk at the same time, and rounds take turns. `make bench-compare` builds two
//! commits for it.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use parallax_benches::contest::{Contest, Results, Work};
use parallax_benches::load::{Load, Order};
use parallax_benches::numbers::METRICS;
use parallax_benches::place::Place;
use parallax_benches::process::pin_client;
use parallax_benches::ratios::Ratio;
use parallax_benches::rows::Sheet;
use parallax_benches::settings::{number, words};
use parallax_benches::target::parallax::{Options, Parallax};
use parallax_benches::target::{Fill, Target};

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
    let sheet = Sheet::printing(&place);
    let rounds = number("PARALLAX_BENCH_ROUNDS", 12);
    let time = Duration::from_millis(number("PARALLAX_BENCH_MS", 1000));
    pin_client();
    place.need(10 * SPAN_BYTES)?;
    let start = |name: &str, bins: &str| -> io::Result<Box<dyn Target>> {
        Ok(Box::new(Parallax::start(Options {
            name: name.into(),
            log_size: "512M".into(),
            pin: true,
            bins: Some(PathBuf::from(bins)),
            ..Options::new(&place.dir.join(name), 4 * SPAN_BYTES, SPAN_BYTES)
        })?))
    };
    let mut contest =
        Contest::new(&place, &sheet, "two-builds", rounds, vec![start("b", b)?, start("a", a)?])?;
    println!("B against A, {rounds} pairs; more than 1 is faster, or more CPU");
    let mut slower = Vec::new();
    for (nth, work) in works(time).iter().enumerate() {
        let worse = |results: &Results, told: bool| {
            let mut worse = false;
            for (metric, _, of) in METRICS.into_iter().filter(|(m, ..)| ["mbps", "cpu_per_io"].contains(m)) {
                let Some(ratio) = ratio(results, of) else { continue };
                let is_worse = ratio.is_certain()
                    && if metric == "mbps" { ratio.high < 1.0 - NOTICED } else { ratio.low > 1.0 + NOTICED };
                worse |= is_worse;
                if told {
                    println!("{:26} {metric:10} {ratio}{}", work.name, if is_worse { "  WORSE" } else { "" });
                }
            }
            worse
        };
        let results = contest.rounds_of(work, nth)?;
        // Of a dozen works one may look worse by chance: not twice.
        if worse(&results, true) && worse(&contest.rounds_of(work, nth + 1000)?, true) {
            slower.push(work.name.clone());
        }
    }
    if slower.is_empty() {
        println!("B is not slower than A, as far as these rounds can tell");
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "B is slower than A: {} (no error: make reports it as one so that scripts notice)",
        slower.join(", ")
    );
    Ok(ExitCode::FAILURE)
}

/// Of B to A.
fn ratio(results: &Results, of: fn(&parallax_benches::numbers::Numbers) -> Option<f64>) -> Option<Ratio> {
    let pairs = results[0].iter().zip(&results[1]).filter_map(|(b, a)| of(b).zip(of(a)));
    Ratio::of(&pairs.collect::<Vec<_>>())
}

fn works(time: Duration) -> Vec<Work> {
    let random = |read_percent, depth| Load::random(read_percent, depth, SPAN_BYTES, time);
    let sequential =
        |read_percent| Load { order: Order::Sequential, ..random(read_percent, 8) }.of_blocks(128 << 10);
    let once = Load { order: Order::Once, span_bytes: SPAN_BYTES / 4, ..random(0, 32) };
    let flushed = Load { flush_every: Some(16), ..random(0, 32) };
    let own = |name, load| Work::new(name, Fill::Overwrite, load);
    vec![
        own("randread-4k-qd1", random(100, 1)),
        own("randread-4k-qd32", random(100, 32)),
        own("randwrite-4k-qd1", random(0, 1)),
        own("randwrite-4k-qd32", random(0, 32)),
        own("randwrite-4k-qd32-flush16", flushed),
        own("mix7030-4k-qd32", random(70, 32)),
        own("seqread-128k-qd8", sequential(100)),
        own("seqwrite-128k-qd8", sequential(0)),
        Work::new("first-write-4k-qd32", Fill::FirstWrite, once),
        Work::new("clone-write-4k-qd32", Fill::Clone, once),
    ]
}
