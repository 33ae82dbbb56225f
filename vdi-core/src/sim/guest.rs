//! What a guest does to its disk: requests of every shape, each noted in the model when it begins and ends.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::content::{self, BlockStamps, Stamp, UNSEEN, ZEROS};
use super::history::{ChangeId, Look};
use super::model::Model;
use crate::buffer::{GuestBufs, HostMemory};
use crate::error::{Error, ErrorKind, Result};
use crate::units::{SECTOR_BYTES, SECTORS_PER_BLOCK};
use crate::vdi::{Ack, Vdi};

const SECTOR: usize = SECTOR_BYTES as usize;

/// What a full store still does.
const ALWAYS: [&str; 8] =
    ["open", "read", "flush", "checkpoint", "collect", "delete", "remove snapshot", "discard"];

/// A request, fully decided.
#[derive(Clone, Debug)]
pub enum Request {
    /// Write these sectors with fresh content, from buffers of these sizes (in sectors).
    Write(Range<u64>, Vec<u64>),
    /// Read these sectors.
    Read(Range<u64>),
    /// Discard these sectors.
    Discard(Range<u64>),
    /// Write zeroes to these sectors.
    WriteZeroes(Range<u64>, bool),
    /// Flush.
    Flush,
}

/// One guest's view of one disk.
#[derive(Clone)]
pub struct Guest {
    /// Name of the disk.
    pub name: String,
    /// The open disk.
    pub vdi: Vdi,
    /// What everybody knows.
    pub model: Rc<RefCell<Model>>,
    /// Whether writes wait for durability.
    pub write_through: bool,
}

impl Guest {
    /// Do `request` from beginning to end.
    pub async fn run(self, request: Request) {
        let verb = match &request {
            Request::Write(..) => "write",
            Request::Read(_) => "read",
            Request::Discard(_) => "discard",
            Request::WriteZeroes(..) => "write zeroes",
            Request::Flush => "flush",
        };
        let result = match request {
            Request::Write(sectors, pieces) => self.write(sectors, &pieces).await,
            Request::Read(sectors) => self.read(sectors).await,
            Request::Discard(sectors) => self.discard(sectors).await,
            Request::WriteZeroes(sectors, unmap) => self.write_zeroes(sectors, unmap).await,
            Request::Flush => self.flush().await,
        };
        let mut model = self.model.borrow_mut();
        model.disk(&self.name).requests -= 1;
        model.ended(verb, &self.name, result);
    }
    fn ack(&self) -> Ack {
        if self.write_through { Ack::WriteThrough } else { Ack::WriteBack }
    }
    fn begin(&self, stamp: Stamp, sectors: Range<u64>) -> ChangeId {
        let mut model = self.model.borrow_mut();
        let now = model.now();
        let disk = model.disk(&self.name);
        disk.history.begin(stamp, sectors, now)
    }
    fn end(&self, change: ChangeId, done: bool, durable: bool) {
        let mut model = self.model.borrow_mut();
        let now = model.now();
        model.disk(&self.name).history.end(change, now, done, durable);
    }
    async fn write(&self, sectors: Range<u64>, pieces: &[u64]) -> Result<()> {
        let stamp = self.model.borrow_mut().stamp();
        let change = self.begin(stamp, sectors.clone());
        self.model.borrow().say(|| format!("write {stamp} to {} {sectors:?}", self.name));
        let mut bufs = GuestBufs::new();
        let mut at = sectors.start;
        for piece in pieces {
            let mut bytes = vec![0; *piece as usize * SECTOR];
            content::fill(stamp, at, &mut bytes);
            bufs.push(HostMemory::copy_of(&bytes));
            at += piece;
        }
        assert_eq!(at, sectors.end, "the buffers cover the request");
        let result = self.vdi.write(sectors.start, &bufs, self.ack()).await;
        // Once acknowledged the guest's memory is the guest's: later scribbles must not reach the disk.
        bufs.fill_zero();
        self.end(change, result.is_ok(), self.write_through);
        result
    }
    async fn discard(&self, sectors: Range<u64>) -> Result<()> {
        // Whole blocks are gone for certain; what happens to the rest of a discard is up to the engine.
        let whole = sectors.start.next_multiple_of(SECTORS_PER_BLOCK)
            ..sectors.end / SECTORS_PER_BLOCK * SECTORS_PER_BLOCK;
        let inner = self.begin(ZEROS, whole.start..whole.end.max(whole.start));
        let edges: Vec<ChangeId> =
            [sectors.start..whole.start.min(sectors.end), whole.end.max(sectors.start)..sectors.end]
                .into_iter()
                .filter(|edge| edge.start < edge.end)
                .map(|edge| self.begin(ZEROS, edge))
                .collect();
        let result = self.vdi.discard(sectors.start, sectors.end - sectors.start, self.ack()).await;
        self.end(inner, result.is_ok(), self.write_through);
        for edge in edges {
            self.end(edge, false, false);
        }
        result
    }
    async fn write_zeroes(&self, sectors: Range<u64>, unmap: bool) -> Result<()> {
        let change = self.begin(ZEROS, sectors.clone());
        let result =
            self.vdi.write_zeroes(sectors.start, sectors.end - sectors.start, unmap, self.ack()).await;
        self.end(change, result.is_ok(), self.write_through);
        result
    }
    async fn flush(&self) -> Result<()> {
        let issued = self.model.borrow_mut().now();
        let result = self.vdi.flush().await;
        if result.is_ok() {
            let mut model = self.model.borrow_mut();
            let disk = model.disk(&self.name);
            disk.flushed = disk.flushed.max(issued);
        }
        result
    }
    async fn read(&self, sectors: Range<u64>) -> Result<()> {
        let issued = self.model.borrow_mut().now();
        let observed = read_stamps(&self.vdi, sectors).await?;
        let mut model = self.model.borrow_mut();
        model.report.blocks_compared += observed.len() as u64;
        model.tell(&format!("{observed:?}"));
        if let Err(violation) = model.disk(&self.name).history.check(&observed, issued, Look::Live) {
            model.fail(format!("a read of {} since {issued}: {}", self.name, violation.0));
        }
        Ok(())
    }
}

/// What `sectors` of the disk hold, by block; sectors beside them are [`UNSEEN`]. Content of no write of this
/// world is an error of kind `Corrupt` with the place.
pub async fn read_stamps(vdi: &Vdi, sectors: Range<u64>) -> Result<BTreeMap<u64, BlockStamps>> {
    let mut bytes = vec![0; (sectors.end - sectors.start) as usize * SECTOR];
    let memory = HostMemory::slice(bytes.len());
    // Whatever the read leaves alone is neither zeros nor content.
    memory.copy_from(&vec![0xee; bytes.len()]);
    let bufs = GuestBufs::from(memory);
    vdi.read(sectors.start, &bufs).await?;
    bufs.copy_to(&mut bytes);
    let mut observed = BTreeMap::new();
    for (sector, chunk) in sectors.zip(bytes.chunks_exact(SECTOR)) {
        let Some(stamp) = content::stamp_of(sector, chunk) else {
            let first = u64::from_le_bytes(chunk[..8].try_into().expect("eight bytes"));
            return Err(Error::new(
                ErrorKind::BadRequest,
                format!("WRONG DATA: sector {sector} holds garbage that begins with {first:#x}"),
                "this is a bug of the engine",
            ));
        };
        let block: &mut BlockStamps = observed.entry(sector / SECTORS_PER_BLOCK).or_insert([UNSEEN; 8]);
        block[(sector % SECTORS_PER_BLOCK) as usize] = stamp;
    }
    Ok(observed)
}

impl Model {
    /// An operation ended: count it, and judge an error.
    pub fn ended<T>(&mut self, verb: &'static str, name: &str, result: Result<T>) {
        *self.report.operations.entry(verb).or_default() += 1;
        self.tell(verb);
        self.tell(name);
        self.tell(&result.as_ref().err().map_or(String::new(), |e| format!("{:?}", e.kind())));
        self.say(|| {
            format!(
                "{verb} of {name} ended{}",
                result.as_ref().err().map_or(String::new(), |e| format!(": {e:?}"))
            )
        });
        if let Err(e) = result {
            self.judge(verb, name, &e);
        }
    }
    /// Which errors may happen, and which only after the devices failed.
    pub fn judge(&mut self, verb: &str, name: &str, e: &Error) {
        *self.report.errors.entry(format!("{verb}: {:?}", e.kind())).or_default() += 1;
        match e.kind() {
            // A full store takes no new blocks. Everything else goes on, and what frees space above all. But what a
            // checkpoint had allocated when a device failed is only found by a collection or a restart; and what is
            // free in another shard's extents is no room for this one.
            ErrorKind::NoSpace if !ALWAYS.contains(&verb) || self.errors_expected || self.shards > 1 => {}
            ErrorKind::Io(_) | ErrorKind::Corrupt if self.errors_expected => {}
            ErrorKind::Io(_) if self.is_out(verb, name) => {}
            ErrorKind::Poisoned if self.errors_expected => {
                self.restart.get_or_insert_with(|| e.message().to_owned());
            }
            _ => self.fail(format!("{verb} of {name} failed: {e:?}")),
        }
    }
    /// Whether it concerns the disk whose tree cannot be read.
    fn is_out(&self, verb: &str, name: &str) -> bool {
        self.unreadable.as_ref().is_some_and(|out| out == name || ["checkpoint", "collect"].contains(&verb))
    }
}
