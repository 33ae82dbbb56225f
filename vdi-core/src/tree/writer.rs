//! Writes new nodes: gives each the next allocated address and sends neighbours in one device write.
//!
//! Invariants: never more than [`WRITES_IN_FLIGHT_MAX`] writes at once; exactly as many blocks are
//! allocated as nodes are written, so that none is left over (a run is only allocated for nodes that are
//! certain to come).

use std::future::poll_fn;
use std::task::Poll;

use super::{Entry, Node, NodeCache};
use crate::buffer::{IoBuf, IoBufs};
use crate::error::{Error, Result};
use crate::executor::LocalFuture;
use crate::limits::{CHECKPOINT_INFLIGHT_BYTES_MAX, CHECKPOINT_WRITE_BYTES_MAX};
use crate::store::{ExtentKind, Run};
use crate::units::{BLOCK_SIZE, BlockAddr, Epoch};

/// Nodes in one device write at most.
const WRITE_NODES_MAX: usize = CHECKPOINT_WRITE_BYTES_MAX / BLOCK_SIZE;
/// Device writes in flight at most.
const WRITES_IN_FLIGHT_MAX: usize = CHECKPOINT_INFLIGHT_BYTES_MAX / CHECKPOINT_WRITE_BYTES_MAX;
const NO_RUN: Run = Run { start: BlockAddr::NONE, blocks: 0 };

pub(super) struct NodeWriter<'a> {
    cache: &'a NodeCache,
    epoch: Epoch,
    /// Certain nodes not yet put.
    certain: u64,
    /// Allocated and not yet given out.
    run: Run,
    /// Given out and not yet sent: neighbours, from `batch_start` on.
    batch: IoBufs,
    batch_start: BlockAddr,
    in_flight: Vec<LocalFuture<'static, Result<()>>>,
    nodes_written: u64,
    /// Everything allocated.
    allocated: Vec<Run>,
    failed: Result<()>,
}

impl<'a> NodeWriter<'a> {
    /// A writer for nodes born in `epoch`, `certain` of which will come for certain.
    pub(super) fn new(cache: &'a NodeCache, certain: u64, epoch: Epoch) -> NodeWriter<'a> {
        NodeWriter {
            cache,
            epoch,
            certain,
            run: NO_RUN,
            batch: IoBufs::new(),
            batch_start: BlockAddr::NONE,
            in_flight: Vec::new(),
            nodes_written: 0,
            allocated: Vec::new(),
            failed: Ok(()),
        }
    }
    pub(super) fn nodes_written(&self) -> u64 {
        self.nodes_written
    }
    /// What was allocated.
    pub(super) fn into_allocated(self) -> Vec<Run> {
        self.allocated
    }
    /// Take in one node; `certain` when it was counted in [`NodeWriter::new`]. Returns the link to it.
    pub(super) async fn put(&mut self, node: Node, level: u8, certain: bool) -> Result<Entry> {
        if self.run.blocks == 0 {
            self.send().await?;
            let want = self.certain.clamp(1, WRITE_NODES_MAX as u64) as u32;
            self.run = self.cache.store().allocate(ExtentKind::Metadata, want).await?;
            assert!((1..=want).contains(&self.run.blocks), "{:?} for {want} blocks", self.run);
            self.batch_start = self.run.start;
            self.allocated.push(self.run);
        }
        let addr = self.run.start;
        self.run = Run { start: addr.plus(1), blocks: self.run.blocks - 1 };
        self.certain -= u64::from(certain);
        assert!(u64::from(self.run.blocks) <= self.certain, "an allocated block would be left over");
        self.batch.push(IoBuf::Shared(node.bytes().clone(), 0..BLOCK_SIZE));
        self.nodes_written += 1;
        let link = Entry { addr, birth: self.epoch, crc: node.crc() };
        self.cache.insert(link, level, node);
        Ok(link)
    }
    /// Start writing the current batch; waits only when too many are in flight.
    async fn send(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (store, start) = (self.cache.store().clone(), self.batch_start);
        let batch = std::mem::take(&mut self.batch);
        self.in_flight.push(Box::pin(async move { store.write_blocks(start, batch).await }));
        self.wait_until(WRITES_IN_FLIGHT_MAX - 1).await
    }
    /// Send what is left and wait for everything, also after a failure: nothing of this batch may land later.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let sent = self.send().await;
        let settled = self.wait_until(0).await;
        sent.and(settled)
    }
    /// Wait until at most `allowed` writes are in flight. Polls all, which also starts the newest.
    async fn wait_until(&mut self, allowed: usize) -> Result<()> {
        let (in_flight, failed) = (&mut self.in_flight, &mut self.failed);
        poll_fn(|cx| {
            in_flight.retain_mut(|write| match write.as_mut().poll(cx) {
                Poll::Ready(Err(error)) => {
                    *failed = Err(error);
                    false
                }
                Poll::Ready(Ok(())) => false,
                Poll::Pending => true,
            });
            if in_flight.len() <= allowed { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.failed.as_ref().copied().map_err(Error::duplicate)
    }
}
