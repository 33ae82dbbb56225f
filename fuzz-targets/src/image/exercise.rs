//! Everything that can be done with a store, done to an image that may be nonsense: it must answer or refuse, and
//! go on. What the checker calls sound must then work.

use std::cell::Cell;
use std::rc::Rc;

use vdi_core::buffer::{GuestBufs, HostMemory};
use vdi_core::check::{self, CheckOptions, Report, Severity};
use vdi_core::engine::{Engine, EngineOptions};
use vdi_core::units::{Epoch, SECTOR_BYTES};
use vdi_core::vdi::{Ack, Vdi};
use vdi_core::{ErrorKind, Result};

use super::base::Image;
use crate::stage::Stuck;
use crate::tape::Tape;

/// Operations on one image at most.
const OPERATIONS_MAX: u64 = 12;
/// Sectors of one request at most.
const SECTORS_MAX: u64 = 96;
/// Where requests go: around what the base image holds, in sectors.
const PLACES: [u64; 8] = [0, 3, 64, 800, 2000, 65_530 * 8, 70_000 * 8, 76_000 * 8];
const NAMES: [&str; 5] = ["a", "b", "small", "new", "-bad"];

/// What the checker says of an image.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Verdict {
    /// Nothing is wrong, at most blocks are leaked.
    Sound,
    /// Something is.
    Damaged,
    /// It holds no store that could be checked.
    NoStore,
}

/// Check the image with all its data.
///
/// # Panics
/// When the checker does, or does not end.
pub fn check(image: &Image) -> (Verdict, Option<Report>) {
    let stage = image.stage(2);
    let (store, log) = (stage.store.clone(), stage.log.clone());
    let work = async move { check::check(&store, &[log], CheckOptions { data: true }).await };
    let report = stage.run(None, work).expect("a check ends");
    // Showing what is hurt takes arithmetic on what the image says.
    let shown = report.iter().flat_map(|r| &r.findings).flat_map(|f| &f.hurt).map(ToString::to_string);
    std::hint::black_box(shown.collect::<Vec<_>>());
    match report {
        // A note may say that a damaged copy of something was passed over: then more is possible.
        Ok(report) if report.findings.iter().all(|f| f.severity == Severity::Leak) => {
            (Verdict::Sound, Some(report))
        }
        Ok(report) => (Verdict::Damaged, Some(report)),
        Err(_) => (Verdict::NoStore, None),
    }
}

/// Open the image, do what `tape` says, and close it. A `sound` one must open, read in full and stay sound.
///
/// # Panics
/// When the engine does, or a sound image does not behave like one.
pub fn exercise(image: &Image, sound: bool, tape: &mut Tape<'_>) {
    let stage = image.stage(3);
    let options = EngineOptions {
        cache_bytes: 1 << 16,
        staging_bytes: 1 << 18,
        out_of_line_bytes: *tape.pick(&[64 << 10, 8 << 10]),
        ..EngineOptions::default()
    };
    let engine = match stage.open(options).expect("an opening ends") {
        Ok(engine) => engine,
        Err(e) => {
            // An extent may be another shard's without its log: it was killed before it made one.
            let excused = e.kind() == ErrorKind::Unsupported;
            assert!(!sound || excused, "the checker finds nothing, and the engine does not open it: {e:?}");
            return;
        }
    };
    let stuck = |what: &str| assert!(!sound, "{what} never ends on an image that the checker calls sound");
    let inner = engine.clone();
    match stage.run(Some(&engine), async move { read_everything(&inner, false).await }) {
        Ok(result) => {
            let readable = result.is_ok();
            assert!(readable || !sound, "the checker finds nothing, and reading fails: {result:?}");
        }
        Err(Stuck) => return stuck("reading"),
    }
    for _ in 0..tape.u8() as u64 % (OPERATIONS_MAX + 1) {
        let (inner, verb) = (engine.clone(), Verb::draw(tape));
        let fatal = Rc::new(Cell::new(false));
        let note = Rc::clone(&fatal);
        let done = stage.run(Some(&engine), async move {
            if let Err(e) = verb.run(&inner).await {
                note.set(e.kind() == ErrorKind::Corrupt);
            }
        });
        assert!(!(sound && fatal.get()), "damage appears in an image that the checker calls sound");
        if done == Err(Stuck) {
            return stuck("an operation");
        }
    }
    let inner = engine.clone();
    match stage.run(Some(&engine), async move { inner.close().await }) {
        Ok(closed) => assert!(closed.is_ok() || !sound, "a sound image does not close: {closed:?}"),
        Err(Stuck) => return stuck("closing"),
    }
    drop((engine, stage));
    let (after, report) = check(image);
    assert!(!sound || after == Verdict::Sound, "a sound image is {after:?} after use: {report:#?}");
    if sound {
        read_again(image, options);
    }
}

/// After a restart a sound image can still be read in full.
fn read_again(image: &Image, options: EngineOptions) {
    let stage = image.stage(5);
    let engine = stage.open(options).expect("an opening ends").expect("a sound image opens again");
    let inner = engine.clone();
    let read = stage.run(Some(&engine), async move { read_everything(&inner, true).await });
    assert!(
        matches!(read, Ok(Ok(()))),
        "reading fails after a restart: {:?}",
        read.map_err(|Stuck| "it never ends")
    );
}

/// `backwards`: what several disks have is read first as the last one of them names it.
async fn read_everything(engine: &Engine, backwards: bool) -> Result<()> {
    let mut result = engine.tree().await.map(drop);
    result = result.and(engine.list().await.map(drop));
    let _ = engine.status();
    let mut vdis = engine.store().vdis();
    if backwards {
        vdis.reverse();
    }
    for entry in vdis {
        let vdi = match engine.open_vdi(&entry.name).await {
            Ok(vdi) => vdi,
            Err(e) => {
                result = result.and(Err(e));
                continue;
            }
        };
        let _ = vdi.snapshots();
        for place in PLACES {
            result = result.and(read(&vdi, place, SECTORS_MAX).await);
        }
    }
    result
}

async fn read(vdi: &Vdi, sector: u64, sectors: u64) -> Result<()> {
    let Some(range) = inside(vdi, sector, sectors) else { return Ok(()) };
    let memory = HostMemory::slice(((range.1) * SECTOR_BYTES) as usize);
    vdi.read(range.0, &GuestBufs::from(memory)).await
}

/// The part of the request inside the disk: the front end refuses what is not.
fn inside(vdi: &Vdi, sector: u64, sectors: u64) -> Option<(u64, u64)> {
    let end = vdi.size_bytes() / SECTOR_BYTES;
    let sectors = sectors.clamp(1, SECTORS_MAX).min(end.checked_sub(sector)?);
    (sectors > 0).then_some((sector, sectors))
}

/// One operation, fully decided.
struct Verb {
    code: u8,
    name: &'static str,
    other: &'static str,
    sector: u64,
    sectors: u64,
    number: u64,
    flag: bool,
}

impl Verb {
    fn draw(tape: &mut Tape<'_>) -> Verb {
        Verb {
            code: tape.u8() % 17,
            name: tape.pick::<&str>(&NAMES),
            other: tape.pick::<&str>(&NAMES),
            sector: *tape.pick(&PLACES) + u64::from(tape.u8() % 32),
            sectors: u64::from(tape.u8()),
            number: tape.interesting(),
            flag: tape.coin(),
        }
    }
    async fn run(&self, engine: &Engine) -> Result<()> {
        let label = self.flag.then_some("label");
        let epoch = Epoch(self.number);
        match self.code {
            0..=5 => return self.request(&engine.open_vdi(self.name).await?).await,
            6 => engine.snapshot(self.name, label).await.map(drop),
            7 => engine.label(self.name, epoch, label).await.map(drop),
            8 => engine.remove_snapshot(self.name, epoch).await,
            9 => engine.rollback(self.name, epoch).await.map(drop),
            10 => engine.clone_vdi(self.name, self.flag.then_some(epoch), self.other).await.map(drop),
            11 => engine.delete(self.name, self.flag).await,
            12 => engine.resize(self.name, self.number, self.flag).await.map(drop),
            13 => engine.checkpoint().await,
            14 => engine.collect(self.flag).await.map(drop),
            15 => engine.create(self.name, self.number << 12).await.map(drop),
            _ => read_everything(engine, self.flag).await,
        }
    }
    async fn request(&self, vdi: &Vdi) -> Result<()> {
        let ack = if self.flag { Ack::WriteThrough } else { Ack::WriteBack };
        let Some((sector, sectors)) = inside(vdi, self.sector, self.sectors) else { return Ok(()) };
        match self.code {
            0 | 1 => {
                let memory = HostMemory::copy_of(&vec![self.code + 1; (sectors * SECTOR_BYTES) as usize]);
                vdi.write(sector, &GuestBufs::from(memory), ack).await
            }
            2 => read(vdi, sector, sectors).await,
            3 => vdi.discard(sector, sectors, ack).await,
            4 => vdi.write_zeroes(sector, sectors, self.flag, ack).await,
            _ => vdi.flush().await,
        }
    }
}
