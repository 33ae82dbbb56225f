//! A disk grows and shrinks, under writes and snapshots too.

use super::*;
use crate::executor::{LocalFuture, join_all};

#[test]
fn resize_grows_shrinks_only_with_force_and_shows_zeros_after() {
    let w = World::formatted();
    w.run(|e| async move {
        e.create("web", 1 << 20).await.unwrap();
        let v = e.open_vdi("web").await.unwrap();
        write(&v, 0, &fill(1, 1 << 20)).await;
        e.resize("web", 1 << 40, false).await.unwrap();
        assert_eq!(v.size_bytes(), 1 << 40);
        write(&v, (1 << 40) / 512 - 8, &fill(2, 4096)).await;
        assert_eq!(read(&v, 0, 1 << 20).await, bytes_of(&fill(1, 1 << 20)));
        assert_eq!(e.resize("web", 512 * 5, false).await.unwrap_err().kind(), ErrorKind::BadRequest);
        e.resize("web", 512 * 5, true).await.unwrap();
        e.resize("web", 1 << 40, false).await.unwrap();
        let mut expected = bytes_of(&fill(1, 1 << 20));
        expected[512 * 5..].fill(0);
        assert_eq!(read(&v, 0, 1 << 20).await, expected);
        assert!(read(&v, (1 << 40) / 512 - 8, 4096).await.iter().all(|b| *b == 0));
        let too_large = e.create("huge", (1 << 52) + 512).await.unwrap_err();
        assert_eq!(too_large.kind(), ErrorKind::TooLarge);
        assert_eq!(e.create("none", 0).await.unwrap_err().kind(), ErrorKind::BadRequest);
        assert_eq!(e.create("web", 512).await.unwrap_err().kind(), ErrorKind::Exists);
    });
}

/// Whatever moment of the resize it meets.
pub(super) fn a_write_during_a_shrink_is_cut_off_or_refused() {
    for steps in 0..40 {
        World::formatted().run(move |e| async move {
            e.create("a", 1 << 20).await.unwrap();
            let a = e.open_vdi("a").await.unwrap();
            let writing = async {
                for _ in 0..steps {
                    e.shared().store.flush().await?;
                }
                // Whole blocks, a part of the last block that stays, and what stays.
                let beyond = [(512, 8192), (131, 512), (0, 4096)];
                let write = async |(sector, bytes)| a.write(sector, &fill(2, bytes), Ack::WriteBack).await;
                let outcomes = [write(beyond[0]).await, write(beyond[1]).await, write(beyond[2]).await];
                assert!(outcomes[2].is_ok());
                Ok(())
            };
            let shrinks = async { e.resize("a", 130 * 512, true).await.map(|_| ()) };
            let other = async { e.resize("a", 140 * 512, true).await.map(|_| ()) };
            let all: Vec<LocalFuture<'_, Result<()>>> =
                vec![Box::pin(shrinks), Box::pin(other), Box::pin(writing)];
            assert!(join_all(all).await.iter().all(Result::is_ok));
            e.resize("a", 1 << 20, false).await.unwrap();
            let mut expected = vec![0; 1 << 20];
            expected[..4096].copy_from_slice(&bytes_of(&fill(2, 4096)));
            let found = read(&a, 0, 1 << 20).await;
            let beyond = 140 * 512;
            assert!(found[beyond..] == expected[beyond..], "after {steps} steps");
            assert!(found[..130 * 512] == expected[..130 * 512]);
        });
    }
}

#[test]
fn a_snapshot_taken_during_a_shrink_has_the_size_that_fits_what_it_holds() {
    for steps in 0..40 {
        World::formatted().run(move |e| async move {
            e.create("a", 1 << 20).await.unwrap();
            let a = e.open_vdi("a").await.unwrap();
            write(&a, 0, &fill(1, 1 << 20)).await;
            let snapshot = async {
                for _ in 0..steps {
                    e.shared().store.flush().await?;
                }
                e.snapshot("a", None).await.map(|_| ())
            };
            // The shrink waits for it.
            let writing = async { a.write(0, &fill(2, 1 << 19), Ack::WriteThrough).await };
            let shrink = async { e.resize("a", 4096, true).await.map(|_| ()) };
            let all: Vec<LocalFuture<'_, Result<()>>> =
                vec![Box::pin(writing), Box::pin(shrink), Box::pin(snapshot)];
            assert!(join_all(all).await.iter().all(Result::is_ok));
            let taken = e.snapshots("a").await.unwrap()[0].clone();
            e.rollback("a", taken.epoch).await.unwrap();
            assert_eq!(a.size_bytes(), taken.size_bytes);
            let there = taken.size_bytes as usize;
            e.resize("a", 1 << 20, false).await.unwrap();
            let found = read(&a, 0, 1 << 20).await;
            assert!(found[there..].iter().all(|b| *b == 0), "after {steps} steps");
        });
    }
}

#[test]
fn what_is_written_during_a_shrink_does_not_come_back() {
    a_write_during_a_shrink_is_cut_off_or_refused();
}
