//! Extent headers, and bitmaps against what is used.

use super::reader::Reader;
use super::{Check, Report, Severity};
use crate::error::Error;
use crate::format::catalogue::{CatalogueEntry, ExtentKind};
use crate::format::extent::{
    self, ExtentHeader, REGIONS_PER_SECTOR, RegionBits, bit_runs, bitmap_sectors, overhead_blocks, regions,
};
use crate::format::host::Claim;
use crate::limits::{COUNTER_MAX, REGION_BLOCKS};
use crate::tree::walk::BlockSet;
use crate::units::{BLOCK_BYTES, BLOCK_SIZE, ExtentNumber};

const HEADER_HINT: &str =
    "what lies in the extent stays readable; 'parallax check -r all' writes the header anew";
const BITMAP_HINT: &str = "its blocks count as used until 'parallax check -r all' rebuilds it";
const FREE_HINT: &str = "do not write to this store: the block could be allocated again. Copy the VDIs out";
const LEAK_HINT: &str = "'parallax check -r leaks' gives them back; so does 'parallax collect'";
/// Words of a region's bits.
const WORDS: usize = (REGION_BLOCKS / 64) as usize;

impl Check {
    /// Compare every extent's bitmap with what is used.
    pub(super) async fn space(&mut self) {
        let superblock = self.reader.superblock;
        let mut leaks = BlockSet::new(superblock.geometry, superblock.extents);
        for number in (0..superblock.extents).map(ExtentNumber) {
            let Some(entry) = self.reader.entry(number).copied() else { continue };
            if matches!(entry.kind, ExtentKind::Data | ExtentKind::Metadata | ExtentKind::Log) {
                self.report.counts.extents += 1;
                self.extent(number, &entry, &mut leaks).await;
            }
        }
        self.report.counts.blocks_used = self.owners.total();
        self.report.counts.blocks_leaked = leaks.len();
        if !self.report.incomplete {
            self.report.leaks = Some(leaks);
        }
    }

    async fn extent(&mut self, number: ExtentNumber, entry: &CatalogueEntry, leaks: &mut BlockSet) {
        let bitmap = read_extent(&self.reader, number, entry, &mut self.report).await;
        let g = self.reader.superblock.geometry;
        let count = bitmap.used.len();
        let mut used = bitmap.used;
        let before = ones(&used);
        let here = |c: &&Claim| g.extent(c.start) == number;
        for claim in self.system.claims.iter().filter(here) {
            mask_words(&mut used, claim, g.block(claim.start), &claim.unused(), |word, bits| word & !bits);
        }
        let mut claimed = vec![0; count];
        for claim in self.system.doubtful.iter().filter(here) {
            mask_words(&mut claimed, claim, g.block(claim.start), &claim.mask, |word, bits| word | bits);
        }
        if let Some(bits) = self.logged.extent(number) {
            claimed.iter_mut().zip(bits.iter().flatten()).for_each(|(word, bits)| *word |= bits);
        }
        let reached = self.owners.words(number, count);
        let mut lost = vec![0; count];
        let mut leaked = vec![0; count];
        let mut merely_claimed = before - ones(&used);
        for i in 0..count {
            // What an unreadable bitmap sector says of its blocks is not known.
            let known = bitmap.known[i];
            lost[i] = reached[i] & !used[i] & known;
            leaked[i] = used[i] & !reached[i] & !claimed[i] & known;
            merely_claimed += u64::from((used[i] & !reached[i] & claimed[i]).count_ones());
        }
        for block in 0..overhead_blocks(g) {
            let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
            lost[word] |= !used[word] & bit & bitmap.known[word];
            leaked[word] &= !bit;
        }
        self.report.counts.blocks_claimed += merely_claimed;
        self.report_free(number, &lost);
        if !self.report.incomplete && !bitmap.damaged.is_empty() {
            let mut anew: Vec<u64> = reached.iter().zip(&claimed).map(|(r, c)| r | c).collect();
            for claim in self.system.claims.iter().filter(here) {
                mask_words(&mut anew, claim, g.block(claim.start), &claim.unused(), |word, bits| word | bits);
            }
            (0..overhead_blocks(g)).for_each(|block| anew[(block / 64) as usize] |= 1 << (block % 64));
            let anew = to_regions(&anew);
            for (index, found) in &bitmap.damaged {
                self.mend_bitmap(number, entry, (*index, found), &anew);
            }
        }
        if !self.report.incomplete {
            self.report_leaks(number, &leaked, leaks);
        }
    }

    fn report_free(&mut self, number: ExtentNumber, lost: &[u64]) {
        let g = self.reader.superblock.geometry;
        let regions = to_regions(lost);
        let runs: Vec<(u32, u32)> = bit_runs(&regions).collect();
        if let Some((first, _)) = runs.first() {
            let total: u32 = runs.iter().map(|(_, n)| n).sum();
            let detail = format!("{total} blocks in use are free by the bitmap of extent {}", number.0);
            let error = Error::corrupt("bitmap from", g.addr(number, *first), detail);
            self.report.corrupt(&error, FREE_HINT);
        }
    }

    fn report_leaks(&mut self, number: ExtentNumber, leaked: &[u64], leaks: &mut BlockSet) {
        let g = self.reader.superblock.geometry;
        let regions = to_regions(leaked);
        let mut total = 0;
        for (first, blocks) in bit_runs(&regions) {
            total += u64::from(blocks);
            for block in first..first + blocks {
                leaks.insert(g.addr(number, block));
            }
        }
        if total > 0 {
            let bytes = total * BLOCK_BYTES;
            let message =
                format!("{total} blocks ({bytes} bytes) of extent {} are used by nothing", number.0);
            self.report.add(Severity::Leak, message, LEAK_HINT);
        }
    }
}

/// The bitmap of an extent in words of 64 blocks.
struct Bitmap {
    used: Vec<u64>,
    /// All ones where the sector verifies.
    known: Vec<u64>,
    /// Sectors that were read and do not, with their bytes.
    damaged: Vec<(u32, Vec<u8>)>,
}

async fn read_extent(
    reader: &Reader,
    number: ExtentNumber,
    entry: &CatalogueEntry,
    report: &mut Report,
) -> Bitmap {
    const SECTOR: usize = extent::SECTOR_SIZE;
    let g = reader.superblock.geometry;
    let owner = reader.superblock.uuid;
    let bytes = overhead_blocks(g) as usize * BLOCK_SIZE;
    let head = reader.device.read_pieces(entry.start_block * BLOCK_BYTES, bytes).await;
    let CatalogueEntry { kind, host, shard, lease_generation, .. } = *entry;
    let header = ExtentHeader { number, kind, host, shard, lease_generation };
    let own = head.get(0..SECTOR);
    if let Err(e) = own.as_ref().map_err(Error::duplicate).and_then(|bytes| header.verify(bytes, owner)) {
        report.corrupt(&e, HEADER_HINT);
        // A sound header that disagrees may be right, and the catalogue wrong.
        if let Ok(bytes) = own.as_ref()
            && ExtentHeader::decode(bytes, number, owner).is_err()
        {
            report.mend_header(&header, &reader.superblock, entry.start_block * BLOCK_BYTES, bytes);
        }
    }
    let mut bitmap = Bitmap { used: Vec::new(), known: Vec::new(), damaged: Vec::new() };
    for index in 0..bitmap_sectors(g) {
        let at = extent::sector_offset(index) as usize;
        let sector = head.get(at..at + SECTOR);
        let decoded = sector.as_ref().map_err(Error::duplicate);
        let (bits, known) = match decoded.and_then(|s| extent::decode_sector(s, number, index, owner)) {
            Ok((bits, generation)) => {
                let place = format!("extent {} sector {index}", number.0);
                report.near_its_end("bitmap", place, generation.0, COUNTER_MAX);
                (bits, u64::MAX)
            }
            Err(e) => {
                report.corrupt(&e, BITMAP_HINT);
                bitmap.damaged.extend(sector.ok().map(|sector| (index, sector.to_vec())));
                ([[0; WORDS]; REGIONS_PER_SECTOR as usize], 0)
            }
        };
        bitmap.used.extend(bits.iter().flatten());
        bitmap.known.extend(std::iter::repeat_n(known, bits.len() * WORDS));
    }
    let words = regions(g) as usize * WORDS;
    bitmap.used.truncate(words);
    bitmap.known.truncate(words);
    bitmap
}

fn mask_words(words: &mut [u64], claim: &Claim, block: u32, bits: &RegionBits, op: impl Fn(u64, u64) -> u64) {
    debug_assert!(claim.start.0.is_multiple_of(u64::from(REGION_BLOCKS)));
    let first = (block / 64) as usize;
    let words = words.iter_mut().skip(first).take(WORDS);
    words.zip(bits).for_each(|(word, bits)| *word = op(*word, *bits));
}

fn ones(words: &[u64]) -> u64 {
    words.iter().map(|w| u64::from(w.count_ones())).sum()
}

fn to_regions(words: &[u64]) -> Vec<RegionBits> {
    words.chunks_exact(WORDS).map(|c| c.try_into().expect("chunks of that size")).collect()
}
