//! Memory that outlives the daemon and ends with the host's boot; and that a start may not find, as in another run
//! directory.

use std::collections::{BTreeMap, BTreeSet};

use super::options::Options;
use crate::buffer::{OwnMemory, crc32c};
use crate::device::simulated::Random;
use crate::log::StagingMemory;

/// Data in memory at most; worlds are small.
const WORLD_BYTES: usize = 8 << 20;

/// The staging memory of each shard.
pub struct Memories {
    shards: Vec<Memory>,
    bytes: usize,
}

struct Memory {
    /// What the next start finds.
    here: StagingMemory,
    /// What is elsewhere.
    elsewhere: Option<StagingMemory>,
    /// Which of the two a reboot has ended, when a start finds them.
    gone: [bool; 2],
    /// That is what the last daemon used.
    astray: bool,
    /// The disks whose writes it has then.
    disks: BTreeSet<String>,
}

impl Memories {
    pub fn new(options: &Options) -> Memories {
        let (log_bytes, staging_bytes) = (options.log_bytes, options.engine.staging_bytes.min(WORLD_BYTES));
        let bytes = StagingMemory::bytes_for(log_bytes, staging_bytes).expect("a world's log is one");
        let here = || found(bytes, options.staged);
        let shard = |_| Memory {
            here: here(),
            elsewhere: None,
            gone: [false; 2],
            astray: false,
            disks: BTreeSet::new(),
        };
        Memories { shards: (0..options.shards_max).map(shard).collect(), bytes }
    }
    /// For a new life of the logs, by shard.
    pub fn next_life(&mut self) -> Vec<StagingMemory> {
        let next = |m: &mut Memory| {
            if std::mem::take(&mut m.gone[0]) {
                // Nothing else in it means anything then, and the whole of it takes long to zero.
                m.here.memory.store(0, 0);
            }
            m.here.life += 1;
            m.here.clone()
        };
        self.shards.iter_mut().map(next).collect()
    }
    /// What was staged in the boot before need not be there any more.
    pub fn reboot(&mut self, random: &mut Random) {
        for m in &mut self.shards {
            m.here.boot = m.here.boot.map(|boot| boot + 1);
            m.astray = false;
            m.gone = m.gone.map(|gone| gone || random.coin());
        }
    }
    /// The next start of some shards finds another memory, or none; `owners` says which shard has which disk.
    pub fn mislay(&mut self, random: &mut Random, owners: &BTreeMap<String, u16>) {
        let one = random.below(self.shards.len() as u64) as usize;
        for (shard, m) in self.shards.iter_mut().enumerate() {
            if shard == one || random.coin() {
                m.elsewhere.get_or_insert_with(|| found(self.bytes, random.coin()));
                m.exchange();
                let here = owners.iter().filter(|(_, owner)| usize::from(**owner) == shard);
                m.disks = here.map(|(name, _)| name.clone()).collect();
            }
        }
    }
    /// Whether no shard acknowledges what is not on its device.
    #[must_use]
    pub fn all_outlive(&self) -> bool {
        self.shards.iter().all(|m| m.here.outlives.is_ok())
    }
    /// Whether a start may miss what was staged.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        self.shards.iter().any(|m| m.astray)
    }
    /// The disks whose writes a start may miss.
    #[must_use]
    pub fn astray(&self) -> BTreeSet<String> {
        self.shards.iter().filter(|m| m.astray).flat_map(|m| m.disks.iter().cloned()).collect()
    }
    /// The next start finds what the last daemon used.
    pub fn find(&mut self) {
        for m in self.shards.iter_mut().filter(|m| m.astray) {
            m.exchange();
        }
    }
    /// A daemon runs with what it has found.
    pub fn are_used(&mut self) {
        self.shards.iter_mut().for_each(|m| m.astray = false);
    }
}

/// What a daemon that was killed had staged.
pub struct Staged {
    pages: Vec<(usize, Box<[u8]>)>,
    life: u64,
    boot: Option<u64>,
}

impl Staged {
    /// Equal for equal bytes, and else almost certainly not.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let print = |(at, page): &(usize, Box<[u8]>)| (*at as u64) << 32 ^ u64::from(crc32c(page));
        self.pages.iter().fold(1, |sum: u64, page| sum.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ print(page))
    }
}

/// The memory of a world with one shard.
impl Memories {
    /// What a kill would leave now.
    #[must_use]
    pub fn staged(&self) -> Staged {
        let here = &self.shards[0].here;
        Staged { pages: here.memory.pages(), life: here.life, boot: here.boot }
    }
    /// Nobody has used the memory yet: a kill left `staged` in it, or else a power loss took that.
    pub fn load(&mut self, staged: &Staged, kill: bool) {
        let here = &mut self.shards[0].here;
        here.life = staged.life;
        if kill {
            here.boot = staged.boot;
            staged.pages.iter().for_each(|(at, page)| here.memory.copy_in(*at, page));
        } else {
            here.boot = staged.boot.map(|boot| boot + 1);
        }
    }
}

impl Memory {
    fn exchange(&mut self) {
        let other = self.elsewhere.as_mut().expect("what is astray is elsewhere");
        (other.boot, other.life) = (self.here.boot, self.here.life);
        std::mem::swap(&mut self.here, other);
        self.gone.swap(0, 1);
        self.astray = !self.astray;
    }
}

fn found(bytes: usize, outlives: bool) -> StagingMemory {
    let outlives = if outlives { Ok(()) } else { Err("this start does not know where it is".to_owned()) };
    StagingMemory { memory: OwnMemory::zeroed(bytes), outlives, boot: Some(1), life: 1 }
}
