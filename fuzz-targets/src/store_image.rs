//! Target `store-image`: a store whose structures were changed and sealed again, checked, opened and used.

use crate::image::{check, damage, exercise, reseal_log, reseal_store, with_base};
use crate::tape::Tape;

/// Which base, which checksums to mend, up to 16 changes of the store and of the log, then operations.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let choices = tape.u8();
    with_base(choices & 1 == 1, |base| {
        let image = base.image.fork();
        damage(&image.store, &base.store_blocks, &mut tape);
        if choices & 2 != 0 {
            damage(&image.log, &base.log_blocks, &mut tape);
            reseal_log(&image.log, true);
        }
        if choices & 4 == 0 {
            reseal_store(&image.store);
        }
        let (verdict, _) = check(&image);
        exercise(&image, verdict == crate::image::Verdict::Sound, &mut tape);
    });
}
