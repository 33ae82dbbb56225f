//! Choices at format and at open.

use crate::device::DeviceHandle;
use crate::error::Result;
use crate::store::{CreateOptions, Store};
use crate::units::Uuid;

use super::{Engine, Env};

/// Choices at format.
#[derive(Clone, Copy, Debug, Default)]
pub struct FormatOptions {
    /// log2 of blocks per extent; None chooses by the store's size.
    pub extent_bits: Option<u32>,
    /// Most VDIs; None chooses by the store's size.
    pub vdis_max: Option<u32>,
    /// Destroy a store that is there already.
    pub force: bool,
}

/// Choices at open. Every cache has its bound here.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// Bytes of tree nodes in memory.
    pub cache_bytes: usize,
    /// Bytes of log data in memory.
    pub staging_bytes: usize,
    /// Writes of at least this many bytes go once to their final place.
    pub out_of_line_bytes: usize,
    /// Put scattered data in order while guests are idle.
    pub tidy_when_idle: bool,
    /// Fewest blocks in a row that are put in order.
    pub rewrite_blocks_min: u32,
    /// Most blocks that are put in order between two checkpoints: 64 MiB.
    pub rewrite_blocks_max: u64,
    /// Oldest that something may be before it is checkpointed, ns.
    pub checkpoint_age_ns: u64,
    /// For tests, with a log of 1 GiB or more: no checkpoint before it is nearly full, unless asked for.
    pub late_checkpoints: bool,
    /// For benches: see [`Store::keep_no_data`].
    pub null_store: bool,
    /// Give up a log that is missing, damaged or not the store's, with all it holds. A sound one is used as ever.
    pub discard_log: bool,
}

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            cache_bytes: 256 << 20,
            staging_bytes: 256 << 20,
            out_of_line_bytes: 64 << 10,
            tidy_when_idle: true,
            rewrite_blocks_min: 16,
            rewrite_blocks_max: 16_384,
            checkpoint_age_ns: 10_000_000_000,
            late_checkpoints: false,
            null_store: false,
            discard_log: false,
        }
    }
}

impl Engine {
    /// Make an empty store on `store`; returns its UUID.
    pub async fn format(env: Env, store: DeviceHandle, options: FormatOptions) -> Result<Uuid> {
        let create = CreateOptions {
            extent_bits: options.extent_bits,
            vdis_max: options.vdis_max,
            force: options.force,
        };
        let sb = Store::create(&store, env.uuid(), env.uuid(), env.clock.wall_ns(), create).await?;
        Ok(sb.uuid)
    }
}
