//! Memory that outlives the daemon and ends with the host's boot; and that a start may not find, as in another run
//! directory.

use super::options::Options;
use crate::buffer::{GuestSlice, HostMemory};
use crate::device::simulated::Random;
use crate::log::StagingMemory;

/// The staging memory of each shard.
pub struct Memories {
    shards: Vec<Memory>,
    bytes: usize,
}

struct Memory {
    /// What the next start finds.
    here: StagingMemory,
    /// What is elsewhere.
    elsewhere: Option<Result<GuestSlice, String>>,
    /// That is what the last daemon used.
    astray: bool,
}

impl Memories {
    pub fn new(options: &Options) -> Memories {
        let bytes = StagingMemory::bytes_for(options.log_bytes).expect("a world's log is one");
        let memory = || match options.staged {
            true => Ok(HostMemory::slice(bytes)),
            false => Err("this world has none".to_owned()),
        };
        let here = || StagingMemory { boot: 1, life: 1, memory: memory() };
        let shard = |_| Memory { here: here(), elsewhere: None, astray: false };
        Memories { shards: (0..options.shards_max).map(shard).collect(), bytes }
    }
    /// For a new life of the logs, by shard.
    pub fn next_life(&mut self) -> Vec<StagingMemory> {
        let next = |m: &mut Memory| {
            m.here.life += 1;
            m.here.clone()
        };
        self.shards.iter_mut().map(next).collect()
    }
    /// What was staged in the boot before is not what is staged in this one, even where its bytes are still there.
    pub fn reboot(&mut self, random: &mut Random) {
        for m in &mut self.shards {
            m.here.boot += 1;
            m.astray = false;
            for memory in [&Some(m.here.memory.clone()), &m.elsewhere].into_iter().flatten().flatten() {
                if random.coin() {
                    memory.fill_zero();
                }
            }
        }
    }
    /// The next start of one shard finds another memory, or none.
    pub fn mislay(&mut self, random: &mut Random) {
        let shard = random.below(self.shards.len() as u64) as usize;
        let m = &mut self.shards[shard];
        let other = m.elsewhere.take().unwrap_or_else(|| match random.coin() {
            true => Ok(HostMemory::slice(self.bytes)),
            false => Err("this start does not know where it is".to_owned()),
        });
        m.elsewhere = Some(std::mem::replace(&mut m.here.memory, other));
        m.astray = !m.astray;
    }
    /// Whether a start may miss what was staged.
    #[must_use]
    pub fn is_astray(&self) -> bool {
        self.shards.iter().any(|m| m.astray)
    }
    /// The next start finds what the last daemon used.
    pub fn find(&mut self) {
        for m in self.shards.iter_mut().filter(|m| m.astray) {
            let right = m.elsewhere.take().expect("what is astray is elsewhere");
            m.elsewhere = Some(std::mem::replace(&mut m.here.memory, right));
            m.astray = false;
        }
    }
    /// A daemon runs with what it has found.
    pub fn are_used(&mut self) {
        self.shards.iter_mut().for_each(|m| m.astray = false);
    }
}
