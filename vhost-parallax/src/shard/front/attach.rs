//! Attaching and detaching: which shard serves a disk, and what a later daemon serves again.

use std::rc::Rc;

use vdi_core::ErrorKind;

use super::{Attached, Front};
use crate::control::api::error::{Code, ErrorBody, Result};
use crate::control::api::{AttachInfo, VdiName};
use crate::shard::ATTACHED_MAX;
use crate::shard::attached_file::Attachment;

impl Front {
    /// Attach a VDI; the same once more is a success.
    pub(super) async fn attach(&self, wanted: Attachment) -> Result<AttachInfo> {
        let _turn = self.lifecycle.lock().await;
        let name = VdiName::parse(&wanted.vdi)?;
        let there =
            self.attached.borrow().get(&wanted.vdi).and_then(|a| Some((a.attachment.clone(), a.shard?)));
        if let Some((attachment, shard)) = there {
            if attachment != wanted {
                return Err(ErrorBody::new(
                    Code::Busy,
                    format!("VDI '{name}' is attached already, with other options"),
                    format!("'parallax detach {name}' first, or attach it with the same options"),
                ));
            }
            return self.at(shard, |w| async move { w.attachment(&name) }).await;
        }
        if self.served() >= ATTACHED_MAX {
            return Err(ErrorBody::new(
                Code::TooLarge,
                format!("{ATTACHED_MAX} VDIs are attached already, the most one daemon serves"),
                "detach one that is not in use",
            ));
        }
        self.settle(&name).await?;
        let info = self.serve(&name, wanted.clone()).await?;
        if let Err(e) = self.keeper.save(self.to_keep()).await {
            self.give_up(&name).await?;
            self.attached.borrow_mut().remove(name.as_str());
            return Err(e.into());
        }
        Ok(info)
    }
    fn served(&self) -> usize {
        self.attached.borrow().values().filter(|a| a.shard.is_some()).count()
    }
    /// Give the VDI to the shard that serves the fewest disks.
    async fn settle(&self, name: &VdiName) -> Result<()> {
        let now = self.home.engine.owner(name.as_str())?;
        let mut served = vec![0u32; usize::from(self.shards)];
        for shard in self.attached.borrow().values().filter_map(|a| a.shard) {
            served[usize::from(shard)] += 1;
        }
        let best = (0..self.shards).min_by_key(|s| (served[usize::from(*s)], *s != now, *s));
        let Some(best) = best.filter(|s| *s != now) else { return Ok(()) };
        let _alone = self.alone(name).await;
        match self.home.engine.move_vdi(name.as_str(), best).await {
            // The store is full: it is served as well where it is.
            Err(e) if e.kind() == ErrorKind::NoSpace => Ok(()),
            moved => Ok(moved?),
        }
    }
    async fn serve(&self, name: &VdiName, attachment: Attachment) -> Result<AttachInfo> {
        let _stays = self.stay(name).await;
        let shard = self.home.engine.owner(name.as_str())?;
        let wanted = attachment.clone();
        let info = self.at(shard, |w| async move { w.serve(wanted).await.map(|disk| disk.info()) }).await?;
        let attached = Attached { attachment, shard: Some(shard) };
        self.attached.borrow_mut().insert(name.as_str().to_owned(), attached);
        Ok(info)
    }
    /// Everything that a later daemon is to serve.
    fn to_keep(&self) -> Vec<Attachment> {
        self.attached.borrow().values().map(|a| a.attachment.clone()).collect()
    }
    /// Stop serving a VDI.
    pub(super) async fn detach(&self, name: &VdiName, force: bool) -> Result<()> {
        let _turn = self.lifecycle.lock().await;
        let served = self.attached.borrow().get(name.as_str()).map(|a| a.shard);
        let Some(shard) = served else {
            self.show(name).await?;
            return Err(ErrorBody::new(
                Code::NotFound,
                format!("VDI '{name}' is not attached"),
                "'parallax ls' shows what is attached",
            ));
        };
        if let Some(shard) = shard {
            let n = name.clone();
            let connected = self.at(shard, |w| async move { Ok(w.attachment(&n)?.connected) }).await?;
            if connected && !force {
                return Err(ErrorBody::new(
                    Code::Busy,
                    format!("a front end is connected to VDI '{name}'"),
                    "shut the guest down or unplug the disk first; --force takes it away all the same",
                ));
            }
        }
        let keep = self.to_keep().into_iter().filter(|a| a.vdi != name.as_str()).collect();
        self.keeper.save(keep).await?;
        self.give_up(name).await?;
        self.attached.borrow_mut().remove(name.as_str());
        tracing::info!(vdi = name.as_str(), "detached");
        Ok(())
    }
    /// Close the disk's socket, if there is one, when what is in flight has ended.
    async fn give_up(&self, name: &VdiName) -> Result<()> {
        let shard = self.attached.borrow().get(name.as_str()).and_then(|a| a.shard);
        let Some(shard) = shard else { return Ok(()) };
        let n = name.clone();
        self.at(shard, |w| async move {
            if let Some(disk) = w.disk(n.as_str()) {
                w.close(&disk).await;
            }
            Ok(())
        })
        .await
    }
    /// Serve again what was attached before and what the configuration wants. What cannot be is reported; it stays
    /// in `attached.json`.
    pub(in crate::shard) async fn restore(self: Rc<Front>, wanted: Vec<Attachment>) {
        for attachment in wanted {
            if self.attached.borrow().contains_key(&attachment.vdi) {
                continue;
            }
            let served = match VdiName::parse(&attachment.vdi) {
                Ok(name) => self.serve(&name, attachment.clone()).await.map(drop),
                Err(e) => Err(e),
            };
            if let Err(e) = served {
                tracing::error!(vdi = attachment.vdi, error = %e, hint = e.hint, "cannot be served again");
                let missing = Attached { attachment: attachment.clone(), shard: None };
                self.attached.borrow_mut().insert(attachment.vdi, missing);
            }
        }
    }
}
