//! A device that fails for a while, and then works again, while the daemon goes on: what waited for it goes on too,
//! nothing acknowledged is lost, and disks that had nothing to do with it were never in the way of it.

use super::run::{ended, start_anew, toil};
use super::world::World;
use crate::error::ErrorKind;
use crate::units::BLOCK_BYTES;
use crate::vdi::root_of;

/// In some worlds: the root of one disk's tree cannot be read from now on. Its neighbours must not notice.
pub(super) fn begin(world: &mut World) -> Result<(), String> {
    if !world.options.outages || world.random.coin() {
        return Ok(());
    }
    // Nothing of the tree is in memory then.
    start_anew(world)?;
    let names: Vec<String> = world.model.borrow().disks.keys().cloned().collect();
    if names.is_empty() {
        return Ok(());
    }
    let name = world.random.pick(&names).clone();
    let (engines, n) = (world.engines.clone(), name.clone());
    let vdi = world.run(async move { engines.open_vdi(&n).await }).map_err(ended)?;
    let record = vdi.map_err(|e| format!("open {name}: {e:?}"))?.record();
    let root = root_of(&record);
    if root.addr.is_none() || root.birth <= record.threshold {
        // It is empty, or others may share it.
        return Ok(());
    }
    let home = world.engines.all()[0].clone();
    let offset = home.store().offset_bytes(root.addr, 1).map_err(|e| format!("root of {name}: {e:?}"))?;
    world.store.set_unreadable(offset..offset + BLOCK_BYTES);
    let mut model = world.model.borrow_mut();
    model.say(|| format!("the root of {name} cannot be read"));
    model.report.outages += 1;
    // Its guest goes on. An order that fails would need a restart.
    model.disk(&name).claimed = true;
    model.unreadable = Some(name);
    Ok(())
}

/// Everything can be read from now on.
pub(super) fn end(world: &mut World) {
    world.store.set_unreadable(0..0);
    let mut model = world.model.borrow_mut();
    if let Some(name) = model.unreadable.take() {
        model.disk(&name).claimed = false;
    }
}

/// The devices work again, after whatever happened while they failed: one checkpoint, and nothing may be refused or
/// held any more. Not where what failed left too little room for that checkpoint, or asked for a restart.
pub(super) fn heal(world: &mut World) -> Result<(), String> {
    let failed = world.options.is_faulty() || world.model.borrow().unreadable.is_some();
    let over = world.crash_point.reached() || world.model.borrow().restart.is_some();
    // A record that was misread is looked at again by a restart only.
    let misread = world.options.store_faults.flipped_read > 0;
    if !failed || over || misread || world.options.full || world.random.below(4) == 0 {
        return Ok(());
    }
    world.crash_point.disarm();
    end(world);
    world.set_faults(false);
    let engines = world.engines.clone();
    match world.run(async move { engines.checkpoint().await }).map_err(ended)? {
        Err(e) if e.kind() == ErrorKind::Poisoned => return Ok(()),
        Err(e) => return Err(format!("checkpoint on devices that work again: {e:?}")),
        Ok(()) => {}
    }
    // Nor does anything else tell which record is there after one could not be written, nor be taken back.
    let faults = &world.options.store_faults;
    let unsure = faults.write_error + faults.no_space > 0;
    for engine in world.engines.all() {
        let held = engine.status().held;
        if held.iter().any(|(_, why)| unsure && why.contains("a restart of the daemon looks again")) {
            return Ok(());
        }
        if !held.is_empty() {
            return Err(format!("held although the devices work again: {held:?}"));
        }
    }
    world.model.borrow_mut().report.healed += 1;
    toil(world)
}
