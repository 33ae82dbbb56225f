//! The laws of the simulated disk itself: a simulator that is too kind proves nothing.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;
use crate::clock::Clock;
use crate::device::DeviceHandle;
use crate::executor::{Executor, block_on};

struct Bench {
    clock: ManualClock,
    crash_point: CrashPoint,
    disk: SimulatedDisk,
    executor: Executor,
}

fn bench(seed: u64, faults: Faults) -> Bench {
    let (clock, crash_point) = (ManualClock::default(), CrashPoint::default());
    let disk = SimulatedDisk::new("disk", 1 << 20, &clock, Random::new(seed), &crash_point);
    disk.set_faults(faults);
    Bench { clock, crash_point, disk, executor: Executor::new() }
}

impl Bench {
    fn run<T: 'static, F: Future<Output = T> + 'static>(&self, work: impl FnOnce(DeviceHandle) -> F) -> T {
        let device = DeviceHandle::new(Box::new(self.disk.open()));
        let (clock, disk) = (self.clock.clone(), self.disk.clone());
        block_on(&self.executor, work(device.clone()), move || {
            if device.poll() {
                return true;
            }
            let Some(due_ns) = disk.next_completion_ns() else { return false };
            clock.advance_ns(due_ns.saturating_sub(clock.now_ns()));
            true
        })
    }
    fn byte(&self, offset_bytes: u64) -> u8 {
        let mut byte = [0];
        self.disk.media().read(offset_bytes, &mut byte);
        byte[0]
    }
}

fn filled(byte: u8, len: usize) -> AlignedBuf {
    AlignedBuf::copy_of(&vec![byte; len])
}

#[test]
fn flushed_writes_survive_a_power_loss_and_others_do_not() {
    let b = bench(1, Faults::default());
    b.run(|d| async move {
        d.write(0, filled(1, 512)).await.unwrap();
        d.flush().await.unwrap();
        d.write(512, filled(2, 512)).await.unwrap();
    });
    assert_eq!((b.byte(0), b.byte(512)), (1, 2));
    b.disk.power_loss(Survival::Nothing);
    assert_eq!((b.byte(0), b.byte(512)), (1, 0));
}

#[test]
fn a_flush_that_lies_makes_nothing_durable_and_an_honest_one_after_it_does() {
    let b = bench(1, Faults { lying_flush: 1_000_000, ..Faults::default() });
    let disk = b.disk.clone();
    b.run(|d| async move {
        d.write(0, filled(1, 512)).await.unwrap();
        d.flush().await.unwrap();
        disk.set_faults(Faults::default());
        d.flush().await.unwrap();
        disk.set_faults(Faults { lying_flush: 1_000_000, ..Faults::default() });
        d.write(512, filled(2, 512)).await.unwrap();
        d.flush().await.unwrap();
    });
    b.disk.power_loss(Survival::Nothing);
    assert_eq!((b.byte(0), b.byte(512)), (1, 0));
}

#[test]
fn what_cannot_be_read_is_there_when_it_can_be_read_again() {
    let b = bench(1, Faults::default());
    let disk = b.disk.clone();
    b.run(|d| async move {
        d.write(0, filled(1, 4096)).await.unwrap();
        disk.set_unreadable(1024..1025);
        assert!(d.read(0, 1024).await.is_ok() && d.read(512, 1024).await.is_err());
        disk.set_unreadable(0..0);
        assert!(d.read(512, 1024).await.is_ok());
    });
}

#[test]
fn a_kill_keeps_completed_writes_but_does_not_flush_them() {
    let b = bench(1, Faults::default());
    b.run(|d| async move { d.write(0, filled(1, 512)).await.unwrap() });
    b.disk.kill();
    assert_eq!(b.byte(0), 1);
    b.disk.power_loss(Survival::Nothing);
    assert_eq!(b.byte(0), 0);
}

#[test]
fn a_flush_does_not_cover_a_write_that_was_still_in_flight_when_it_was_submitted() {
    let mut survived = BTreeSet::new();
    for seed in 0..64 {
        let b = bench(seed, Faults { delay_ns_max: 1000, ..Faults::default() });
        b.run(|d| async move {
            let write = {
                let d = d.clone();
                async move { d.write(0, filled(1, 512)).await }
            };
            let flush = async move { d.flush().await };
            for r in crate::executor::join_all(vec![Box::pin(write), Box::pin(flush)]).await {
                r.unwrap();
            }
        });
        b.disk.power_loss(Survival::Nothing);
        survived.insert(b.byte(0));
    }
    assert_eq!(survived, BTreeSet::from([0]));
}

#[test]
fn a_torn_write_leaves_any_mixture_of_sectors_over_the_seeds() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let b = bench(seed, Faults::default());
        b.run(|d| async move {
            d.write(0, filled(1, 1024)).await.unwrap();
            d.flush().await.unwrap();
            d.write(0, filled(2, 1024)).await.unwrap();
            d.write(0, filled(3, 1024)).await.unwrap();
        });
        b.disk.power_loss(Survival::Sectors(500_000));
        seen.insert((b.byte(0), b.byte(512)));
    }
    let all: BTreeSet<_> = (1..=3).flat_map(|a| (1..=3).map(move |c| (a, c))).collect();
    assert_eq!(seen, all);
}

#[test]
fn operations_end_out_of_order_and_equal_seeds_give_equal_runs() {
    let order = |seed| {
        let b = bench(seed, Faults { delay_ns_max: 1000, ..Faults::default() });
        let order = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&order);
        b.run(|d| async move {
            let one = |i: u64| {
                let (d, log) = (d.clone(), Rc::clone(&log));
                Box::pin(async move {
                    d.write(i * 512, filled(i as u8, 512)).await.unwrap();
                    log.borrow_mut().push(i);
                }) as crate::executor::LocalFuture<'_, ()>
            };
            crate::executor::join_all((0..8).map(one).collect()).await;
        });
        (order.take(), b.disk.trace())
    };
    assert_eq!(order(7), order(7));
    assert_ne!(order(7).0, (0..8).collect::<Vec<_>>());
    assert_ne!(order(7), order(8));
}

#[test]
fn each_fault_on_the_menu_happens_and_is_counted() {
    let always = 1_000_000;
    let menu = [
        (Fault::ReadError, Faults { read_error: always, ..Faults::default() }),
        (Fault::WriteError, Faults { write_error: always, ..Faults::default() }),
        (Fault::FlushError, Faults { flush_error: always, ..Faults::default() }),
        (Fault::NoSpace, Faults { no_space: always, ..Faults::default() }),
        (Fault::LyingFlush, Faults { lying_flush: always, ..Faults::default() }),
        (Fault::LostWrite, Faults { lost_write: always, ..Faults::default() }),
        (Fault::MisdirectedWrite, Faults { misdirected_write: always, ..Faults::default() }),
        (Fault::MisdirectedRead, Faults { misdirected_read: always, ..Faults::default() }),
        (Fault::RottenWrite, Faults { rotten_write: always, ..Faults::default() }),
        (Fault::FlippedRead, Faults { flipped_read: always, ..Faults::default() }),
        (Fault::Slow, Faults { slow: always, slow_ns_max: 1 << 30, ..Faults::default() }),
    ];
    for (fault, faults) in menu {
        let b = bench(3, faults);
        let (write, read, flush) = b.run(|d| async move {
            let write = d.write(4096, filled(0x55, 4096)).await.map_err(|e| e.kind());
            let read = d.read(4096, 4096).await.map(|b| b.iter().all(|x| *x == 0x55)).map_err(|e| e.kind());
            (write, read, d.flush().await.map_err(|e| e.kind()))
        });
        assert!(b.disk.counts().get(fault) > 0, "{fault:?}");
        let eio = crate::ErrorKind::Io(libc::EIO);
        assert_eq!(write.is_err(), matches!(fault, Fault::WriteError | Fault::NoSpace), "{fault:?}");
        assert_eq!(flush, if fault == Fault::FlushError { Err(eio) } else { Ok(()) }, "{fault:?}");
        let intact = matches!(fault, Fault::FlushError | Fault::LyingFlush | Fault::Slow);
        assert_eq!(read == Ok(true), intact, "{fault:?}");
        assert_eq!(read == Err(eio), fault == Fault::ReadError, "{fault:?}");
    }
}

#[test]
fn the_crash_point_stops_the_disk_at_the_nth_event() {
    for events in 1..6 {
        let b = bench(5, Faults::default());
        b.crash_point.arm(events);
        let device = DeviceHandle::new(Box::new(b.disk.open()));
        let d = device.clone();
        b.executor.spawn(async move {
            for i in 0..3 {
                d.write(i * 512, filled(9, 512)).await.unwrap();
            }
        });
        for _ in 0..10 {
            b.executor.run_until_stalled();
            device.poll();
        }
        assert!(b.crash_point.reached());
        b.executor.abandon_all();
        b.disk.power_loss(Survival::Nothing);
        b.crash_point.disarm();
        assert_eq!(b.disk.next_completion_ns(), None);
    }
}

#[test]
fn what_a_dead_process_submits_goes_nowhere() {
    let b = bench(1, Faults::default());
    let device = DeviceHandle::new(Box::new(b.disk.open()));
    b.disk.kill();
    let d = device.clone();
    b.executor.spawn(async move { d.write(0, filled(1, 512)).await.unwrap() });
    b.executor.run_until_stalled();
    assert!(!device.poll());
    assert_eq!(b.byte(0), 0);
}
