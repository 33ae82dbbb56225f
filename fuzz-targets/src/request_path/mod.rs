//! Target `request-path`: what a guest puts into its memory, taken off a ring, checked and executed on a real engine,
//! and every effect of it compared with a second reading of the same bytes.
//!
//! Requests run alone, and then each effect is certain; or several at once, and then what they wrote is not.

mod life;
mod model;
mod reading;
mod scene;
mod serve;

use crate::tape::Tape;
use scene::Scene;

/// Steps of one run at most.
const STEPS_MAX: usize = 40;

/// The device's options and the ring's place, then what the guest does.
///
/// # Panics
/// When the daemon's code does, never ends, or does anything but what the guest's bytes mean.
pub fn run(bytes: &[u8]) {
    let mut tape = Tape::new(bytes);
    let Some(mut scene) = Scene::set(&mut tape) else { return };
    for _ in 0..STEPS_MAX {
        if tape.is_over() {
            break;
        }
        scene.step(&mut tape);
    }
    scene.end();
}
