//! One daemon's life, as far as a request needs it: an engine, open disks, and requests under way on them.

use std::cell::RefCell;
use std::rc::Rc;

use vdi_core::engine::Engine;
use vdi_core::executor::{LocalFuture, join_all};
use vdi_core::vdi::Vdi;
use vhost_parallax::shard::execute::execute;
use vhost_parallax::vhost::{Reply, Request, Status};

use crate::disks::{NEIGHBOUR, VILLAIN, options};
use crate::image::Image;
use crate::stage::Stage;

/// An engine with both disks open.
pub struct Life {
    stage: Stage,
    engine: Engine,
    villain: Vdi,
    neighbour: Vdi,
}

impl Life {
    /// Open the image and its disks. Equal `seed`s give equal identities.
    ///
    /// # Panics
    /// When that fails: the image is sound.
    #[must_use]
    pub fn begin(image: &Image, seed: u64) -> Life {
        let stage = image.stage(seed);
        let engine = stage.open(options()).expect("an opening ends").expect("a sound image opens");
        let open = |name: &'static str| {
            let inner = engine.clone();
            let opened = stage.run(Some(&engine), async move { inner.open_vdi(name).await });
            opened.expect("an opening ends").expect("a sound disk opens")
        };
        let (villain, neighbour) = (open(VILLAIN), open(NEIGHBOUR));
        Life { stage, engine, villain, neighbour }
    }
    /// Execute requests of the villain side by side, as the shard does; how each ended, in the order in which they did.
    #[must_use]
    pub fn execute(&self, requests: Vec<Request>) -> Vec<(Reply, Status)> {
        self.execute_on(&self.villain, requests)
    }
    /// The same for the other disk.
    #[must_use]
    pub fn execute_for_neighbour(&self, requests: Vec<Request>) -> Vec<(Reply, Status)> {
        self.execute_on(&self.neighbour, requests)
    }
    fn execute_on(&self, vdi: &Vdi, requests: Vec<Request>) -> Vec<(Reply, Status)> {
        let ended = Rc::new(RefCell::new(Vec::new()));
        let task = |request| -> LocalFuture<'static, ()> {
            let (vdi, ended) = (vdi.clone(), Rc::clone(&ended));
            Box::pin(async move {
                let Request { name, operation, durable, reply } = request;
                let parts = vdi.parts(name.request, name.again);
                let status = execute(&vdi, false, operation, durable, &parts).await;
                ended.borrow_mut().push((reply, status));
            })
        };
        let all: Vec<_> = requests.into_iter().map(task).collect();
        let done = self.stage.run(Some(&self.engine), async move { drop(join_all(all).await) });
        done.expect("every request ends");
        ended.take()
    }
}
