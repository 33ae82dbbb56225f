//! Target `log-image`: a log with segments that nobody wrote, or damage in those that were, replayed.

use vdi_core::device::memory::Media;
use vdi_core::format::record::{Body, Crcs, Origin, Record, Runs};
use vdi_core::format::segment::{self, SegmentHeader, verify_at};
use vdi_core::limits::{LABEL_BYTES_MAX, SEGMENT_HEAD_BYTES_MAX};
use vdi_core::units::{
    BLOCK_BYTES, BLOCK_SIZE, BlockAddr, Epoch, Incarnation, SegmentSeq, Uuid, VdiId, VdiSeq, VirtualBlock,
};

use crate::image::{LOG_BYTES, check, damage, exercise, reseal_log, with_base};
use crate::tape::Tape;

/// Segments appended at most, and records in each.
const SEGMENTS_MAX: u8 = 6;
const RECORDS_MAX: u8 = 8;
/// Blocks of one record at most.
const RECORD_BLOCKS_MAX: u64 = 6;

/// Which base and which checksums to mend, segments to append, up to 16 changes of the log, then operations.
///
/// # Panics
/// When the checker or the engine does, or an image that nothing was done to is not sound.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let choices = tape.u8();
    with_base(choices & 1 == 1, |base| {
        let image = base.image.fork();
        let appended = append(&image.log, &mut tape);
        let changed = damage(&image.log, &image.log.written_blocks(), &mut tape);
        if choices & 2 == 0 {
            reseal_log(&image.log, choices & 4 == 0);
        }
        let _ = check(&image);
        exercise(&image, appended == 0 && changed == 0, &mut tape);
    });
}

/// Where the log of an image ends, and what comes next.
struct End {
    log: Uuid,
    last: SegmentHeader,
    crc: u32,
    offset_bytes: u64,
    vdis: Vec<Turn>,
}

/// What the next record of a VDI would say.
#[derive(Clone, Copy)]
struct Turn {
    vdi: VdiId,
    seq: VdiSeq,
    lease_epoch: u64,
    epoch: Epoch,
}

impl End {
    fn of(log: &Media) -> Option<End> {
        let mut end: Option<End> = None;
        for block in log.written_blocks() {
            let (offset, mut bytes) = (block * BLOCK_BYTES, vec![0; SEGMENT_HEAD_BYTES_MAX]);
            log.read(offset, &mut bytes);
            let owner = u128::from_le_bytes(bytes[32..48].try_into().expect("sixteen bytes"));
            let Ok(found) = verify_at(&bytes, Uuid(owner), offset) else { continue };
            let mut vdis = end.map(|e| e.vdis).unwrap_or_default();
            for (record, _) in found.records().ok()? {
                let ends_epoch = u64::from(matches!(record.body, Body::Snapshot { .. }));
                let turn = Turn {
                    vdi: record.vdi,
                    seq: VdiSeq(record.seq.0 + 1),
                    lease_epoch: record.lease_epoch,
                    epoch: Epoch(record.epoch.0 + ends_epoch),
                };
                vdis.retain(|t: &Turn| t.vdi != record.vdi);
                vdis.push(turn);
            }
            let bytes = found.head_bytes as u64 + u64::from(found.header.data_blocks) * BLOCK_BYTES;
            end = Some(End {
                log: Uuid(owner),
                last: found.header,
                crc: found.crc,
                offset_bytes: offset + bytes,
                vdis,
            });
        }
        end
    }
}

fn append(log: &Media, tape: &mut Tape<'_>) -> u8 {
    let segments = tape.u8() % (SEGMENTS_MAX + 1);
    if segments == 0 {
        return 0;
    }
    let Some(mut end) = End::of(log) else { return 0 };
    for _ in 0..segments {
        append_segment(log, &mut end, tape);
    }
    segments
}

fn append_segment(log: &Media, end: &mut End, tape: &mut Tape<'_>) {
    let (how, records) = (tape.u8(), tape.u8() % (RECORDS_MAX + 1));
    let (mut encoded, mut data) = (Vec::new(), Vec::new());
    for _ in 0..records {
        let record = draw_record(end, &mut data, tape);
        record.encode_into((data.len() / BLOCK_SIZE) as u32 - record.body.inline_blocks(), &mut encoded);
    }
    let seq = SegmentSeq(end.last.seq.0 + 1);
    let odd = |bit: u8| how & bit != 0;
    let header = SegmentHeader {
        log: end.log,
        offset_bytes: end.offset_bytes,
        seq: if odd(1) { SegmentSeq(tape.interesting()) } else { seq },
        incarnation: if odd(2) { Incarnation(tape.interesting()) } else { end.last.incarnation },
        durable_through: if odd(4) { SegmentSeq(tape.interesting()) } else { end.last.durable_through },
        previous_crc: end.crc,
        records: if odd(8) { tape.interesting() as u32 } else { u32::from(records) },
        data_blocks: (data.len() / BLOCK_SIZE) as u32,
        ..end.last
    };
    let (head, crc) = segment::encode(&header, &encoded);
    let bytes = (head.len() + data.len()) as u64;
    if end.offset_bytes + bytes > LOG_BYTES {
        return;
    }
    log.write(end.offset_bytes, &head);
    log.write(end.offset_bytes + head.len() as u64, &data);
    end.offset_bytes += bytes;
    end.crc = crc;
    end.last.seq = seq;
}

fn draw_record(end: &mut End, data: &mut Vec<u8>, tape: &mut Tape<'_>) -> Record {
    let how = tape.u8();
    let odd = |bit: u8| how & bit != 0;
    let unknown = Turn { vdi: VdiId(7), seq: VdiSeq(1), lease_epoch: 1, epoch: Epoch(1) };
    let which = tape.below(end.vdis.len() as u64 + 1) as usize;
    let turn = end.vdis.get(which).copied().unwrap_or(unknown);
    let body = draw_body(odd(1), data, tape);
    if let Some(next) = end.vdis.get_mut(which) {
        next.seq.0 += 1;
        next.epoch.0 += u64::from(matches!(body, Body::Snapshot { .. }));
    }
    Record {
        vdi: turn.vdi,
        seq: if odd(2) { VdiSeq(tape.interesting()) } else { turn.seq },
        lease_epoch: if odd(4) { tape.interesting() } else { turn.lease_epoch },
        epoch: if odd(8) { Epoch(tape.interesting()) } else { turn.epoch },
        origin: Origin { request: u64::from(how >> 5), part: u16::from(how >> 7) },
        copy: odd(16),
        body,
    }
}

fn draw_body(wrong_crc: bool, data: &mut Vec<u8>, tape: &mut Tape<'_>) -> Body {
    let (kind, at) = (tape.u8() % 7, VirtualBlock(tape.interesting()));
    let blocks = 1 + tape.below(RECORD_BLOCKS_MAX);
    let mut crcs = |inline: bool, tape: &mut Tape<'_>| -> Crcs {
        let mut crc = || {
            let block = [tape.u8(); BLOCK_SIZE];
            if inline {
                data.extend_from_slice(&block);
            }
            vdi_core::buffer::crc32c(&block) ^ u32::from(wrong_crc)
        };
        (0..blocks).map(|_| crc()).collect()
    };
    match kind {
        0 => Body::Write { at, crcs: crcs(true, tape) },
        1 => {
            // Two runs: the second one anywhere, too.
            let first = 1 + tape.below(blocks) as u32;
            let rest = blocks as u32 - first;
            let mut runs: Runs = [(BlockAddr(tape.interesting()), first)].into_iter().collect();
            if rest > 0 {
                runs.push((BlockAddr(tape.interesting()), rest));
            }
            Body::WriteOut { at, runs, crcs: crcs(false, tape) }
        }
        2 => Body::Discard { at, blocks: tape.interesting() },
        3 => Body::WriteZeroes { at, blocks: tape.interesting() },
        4 => Body::Snapshot {
            wall_ns: tape.interesting(),
            size_bytes: tape.interesting() << 9,
            label: draw_label(tape),
        },
        5 => Body::Label { snapshot: Epoch(tape.interesting()), label: draw_label(tape) },
        _ => Body::RemoveSnapshot { snapshot: Epoch(tape.interesting()) },
    }
}

fn draw_label(tape: &mut Tape<'_>) -> String {
    let len = usize::from(tape.u8() % 8);
    let mut label = String::from_utf8_lossy(tape.bytes(len)).into_owned();
    while label.len() > LABEL_BYTES_MAX {
        label.pop();
    }
    label
}
