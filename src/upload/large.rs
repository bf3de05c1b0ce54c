//! Objects of large databases: put in parts, each read from the compressed copy on disk when there is memory for it.
//!
//! What is completed is what was compressed: the copy's hash is checked on the way. An upload that fails or is stopped is
//! aborted, for parts that nobody completes are paid for.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use object_store::{MultipartUpload, PutMultipartOptions, PutPayload};
use tokio::task::JoinSet;

use super::{Job, PARTS_SHARE_DIVISOR, Slot, Stopped, Uploader, next_key, no_free_key};
use crate::budget::Permit;
use crate::error::{Failure, Reason};
use crate::object::{Encoded, FrameHasher};
use crate::snapshot::CompressedCopy;
use crate::store::classify;

/// Smallest part but the last: S3 asks for 5 MiB, and larger parts cost fewer requests.
const PART_MIN: u64 = 8 << 20;
/// Most parts one object can have on S3.
const PARTS_MAX: u64 = 10_000;
/// Parts of one object in flight at once, memory and request slots permitting.
const PARTS_AT_ONCE: usize = 4;
/// A folder writes a part in pieces of this size: one write for all of it took more CPU here, perhaps for the larger pages that Linux
/// takes for the file then.
const PIECE: usize = 128 << 10;

/// Parts of one object on their way, each with the slot that it gives back.
type InFlight = JoinSet<(object_store::Result<()>, Slot)>;

impl Uploader {
    /// Puts a compressed copy, in parts if it is large; memory is that of the parts in flight.
    pub(super) async fn put_copy(&self, job: &mut Job, copy: CompressedCopy, slot: Slot) -> Result<u64, Stopped> {
        // The share that the reading held; each part takes its own from here on.
        job.permit.shrink_to(0);
        for _ in 0..super::KEYS_MAX {
            let path = self.name(job)?;
            let mut tail = Vec::with_capacity(1024);
            job.description.append_to(&mut tail);
            let parts = Parts::of(&copy, tail).map_err(copy_unreadable)?;
            self.check_memory(parts.size)?;
            let (parts, first) = self.next_part(parts).await?;
            if let Some(parts) = parts {
                return self.put_parts(&path, parts, first, slot).await;
            }
            // It compressed into one part: an ordinary put, create-only like all others.
            let Part { bytes, permit: _held } = first;
            if let Some(bytes) = self.put_whole(&path, in_pieces(&bytes), &self.store.create()).await? {
                return Ok(bytes);
            }
            next_key(job)?;
        }
        Err(no_free_key())
    }

    /// Whether there can ever be memory for a part of this size.
    fn check_memory(&self, part_size: u64) -> Result<(), Failure> {
        if part_size <= self.budget.total() {
            return Ok(());
        }
        let need = (part_size * u64::from(PARTS_SHARE_DIVISOR)) >> 20;
        Err(Failure::new(Reason::TooLarge, format!("storing it needs --memory-limit {need}MiB or more")))
    }

    async fn put_parts(
        &self,
        path: &object_store::path::Path,
        parts: Parts,
        first: Part,
        slot: Slot,
    ) -> Result<u64, Stopped> {
        let options =
            PutMultipartOptions { attributes: self.store.put_attributes.clone(), ..PutMultipartOptions::default() };
        let mut upload = tokio::select! {
            begun = tokio::time::timeout(self.time_max, self.store.inner.put_multipart_opts(path, options)) => {
                begun.map_err(|_| self.timed_out())?.map_err(|e| classify(&e))?
            }
            // Dropped too early, a store that did begin keeps an upload that nobody knows of.
            () = self.grace_is_over() => return Err(Stopped::Interrupted),
        };
        let sent = tokio::select! {
            sent = self.send_parts(upload.as_mut(), parts, first, slot) => sent,
            // What is left of a large object will not make it within the grace: given up at once.
            () = self.control.until_stopped() => Err(Stopped::Interrupted),
        };
        if sent.is_err() {
            // Parts that nobody completes are paid for, for ever.
            let aborted = tokio::time::timeout(Duration::from_secs(3), upload.abort()).await;
            if !matches!(aborted, Ok(Ok(()))) {
                log::warn!(
                    "key={path} its unfinished parts could not be removed; a bucket rule that aborts incomplete uploads will"
                );
            }
        }
        sent
    }

    async fn send_parts(
        &self,
        upload: &mut dyn MultipartUpload,
        parts: Parts,
        first: Part,
        slot: Slot,
    ) -> Result<u64, Stopped> {
        // Spawned, so that they move on while this task waits for the memory of the next part.
        let mut in_flight = JoinSet::new();
        let (mut parts, mut part) = (Some(parts), Some((first, slot)));
        let mut bytes = 0;
        while let Some((Part { bytes: data, permit }, slot)) = part.take() {
            let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
            bytes += len;
            let passage = self.may_send(len).await?;
            let put = upload.put_part(in_pieces(&data));
            in_flight.spawn(async move {
                let put = put.await;
                match &put {
                    Ok(()) => passage.arrived(),
                    Err(e) if classify(e).reason == Reason::StoreTimeout => passage.timed_out(),
                    Err(_) => drop(passage),
                }
                drop(permit);
                (put, slot)
            });
            if let Some(more) = parts.take() {
                let slot = self.slot_for_part(&mut in_flight).await?;
                let (left, next) = self.next_part(more).await?;
                (parts, part) = (left, Some((next, slot)));
            }
        }
        let mut last = self.part_done(&mut in_flight).await?;
        while !in_flight.is_empty() {
            last = self.part_done(&mut in_flight).await?;
        }
        // The end is a request too, and rides on the last part's slot.
        let _slot = last;
        let complete = tokio::time::timeout(self.time_max, upload.complete()).await;
        complete.map_err(|_| self.timed_out())?.map_err(|e| classify(&e))?;
        Ok(bytes)
    }

    /// A request slot for one more part: a spare one, or that of a part that ends. The first part rides on the job's own.
    async fn slot_for_part(&self, in_flight: &mut InFlight) -> Result<Slot, Stopped> {
        if in_flight.len() < PARTS_AT_ONCE
            && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned()
        {
            return Ok(slot);
        }
        self.part_done(in_flight).await
    }

    async fn part_done(&self, in_flight: &mut InFlight) -> Result<Slot, Stopped> {
        match tokio::time::timeout(self.time_max, in_flight.join_next()).await {
            Ok(Some(Ok((Ok(()), slot)))) => {
                self.control.stored();
                Ok(slot)
            }
            Ok(Some(Ok((Err(e), _)))) => Err(classify(&e).into()),
            Ok(Some(Err(e))) => Err(Failure::new(Reason::StoreError, format!("a part's upload broke off: {e}")).into()),
            Ok(None) => unreachable!("only called while parts are in flight"),
            Err(_) => Err(self.timed_out().into()),
        }
    }

    /// Reads the next part off the runtime; the remaining parts are `None` after the last.
    async fn next_part(&self, mut parts: Parts) -> Result<(Option<Parts>, Part), Stopped> {
        let permit = self.budget.take_async(parts.next_len()).await;
        let read = tokio::task::spawn_blocking(move || parts.next().map(|bytes| (parts, bytes))).await;
        let (parts, bytes) = read
            .map_err(|e| Failure::new(Reason::CopyFailed, format!("reading its temporary copy broke off: {e}")))?
            .map_err(copy_unreadable)?;
        Ok(((parts.next_len() > 0).then_some(parts), Part { bytes, permit }))
    }
}

fn in_pieces(bytes: &Bytes) -> PutPayload {
    (0..bytes.len()).step_by(PIECE).map(|at| bytes.slice(at..bytes.len().min(at + PIECE))).collect()
}

fn copy_unreadable(error: io::Error) -> Failure {
    Failure::new(Reason::CopyFailed, format!("cannot read its temporary copy: {error}"))
}

/// The size of all parts but the last, for an object of so many bytes.
pub(crate) fn part_size(object_bytes: u64) -> u64 {
    object_bytes.div_ceil(PARTS_MAX).next_multiple_of(1 << 20).max(PART_MIN)
}

/// An object as a sequence of parts of exactly one size, the last one shorter (some stores insist).
struct Parts {
    file: File,
    frame: Encoded,
    /// What follows the frame: the description.
    tail: Vec<u8>,
    size: u64,
    /// Bytes of the object that were given out.
    at: u64,
    hasher: FrameHasher,
}

struct Part {
    bytes: Bytes,
    permit: Permit,
}

impl Parts {
    fn of(copy: &CompressedCopy, tail: Vec<u8>) -> io::Result<Self> {
        let (file, frame) = (File::open(copy.path())?, copy.frame());
        let size = part_size(frame.size + tail.len() as u64);
        Ok(Self { file, frame, tail, size, at: 0, hasher: FrameHasher::default() })
    }

    /// Bytes of the next part; 0 after the last.
    fn next_len(&self) -> u64 {
        (self.frame.size + self.tail.len() as u64 - self.at).min(self.size)
    }

    fn next(&mut self) -> io::Result<Bytes> {
        let mut part = vec![0; usize::try_from(self.next_len()).map_err(io::Error::other)?];
        let of_frame = usize::try_from(self.frame.size.saturating_sub(self.at)).unwrap_or(usize::MAX).min(part.len());
        let (frame, tail) = part.split_at_mut(of_frame);
        self.file.read_exact_at(frame, self.at)?;
        self.hasher.write(frame);
        let given = usize::try_from(self.at.saturating_sub(self.frame.size)).map_err(io::Error::other)?;
        tail.copy_from_slice(&self.tail[given..given + tail.len()]);
        self.at += part.len() as u64;
        if self.at >= self.frame.size && self.hasher.finish() != self.frame.hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is not what was written into it"));
        }
        Ok(part.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::encode_frame;

    /// A compressed copy of noise, its frame, and a description to go with it.
    fn copied(dir: &std::path::Path, raw_size: usize) -> (CompressedCopy, Vec<u8>, Vec<u8>) {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        };
        let raw: Vec<u8> = (0..raw_size).map(|_| random()).collect();
        let frame = encode_frame(&raw);
        let sum = Encoded { size: frame.bytes.len() as u64, hash: frame.hash };
        (CompressedCopy::for_test(dir, &frame.bytes, sum), frame.bytes, b"a description".to_vec())
    }

    fn parts(copy: &CompressedCopy, tail: &[u8], size: u64) -> io::Result<Vec<Bytes>> {
        let mut parts = Parts { size, ..Parts::of(copy, tail.to_vec())? };
        let mut all = Vec::new();
        while parts.next_len() > 0 {
            let (len, part) = (parts.next_len(), parts.next()?);
            assert_eq!(part.len() as u64, len);
            all.push(part);
        }
        Ok(all)
    }

    #[test]
    fn parts_are_of_one_size_and_together_the_object() {
        let dir = tempfile::tempdir().unwrap();
        let (copy, frame, tail) = copied(dir.path(), 300_000);
        let (object, len) = ([frame.clone(), tail.clone()].concat(), frame.len() as u64);
        // Also where the frame's end and a part's fall together, and where a part ends within the description.
        for size in [1000, len / 2, len - 1, len, len + 1, len + 5, len + 13, len + 14, 8 << 20] {
            let parts = parts(&copy, &tail, size).unwrap();
            assert!(parts.concat() == object, "parts of {size}");
            let (last, others) = parts.split_last().unwrap();
            assert!(others.iter().all(|part| part.len() as u64 == size) && last.len() as u64 <= size);
            assert!(Bytes::from(in_pieces(last)) == last);
        }
    }

    /// What is completed is what was compressed.
    #[test]
    fn a_copy_that_is_not_what_was_written_is_not_completed() {
        let dir = tempfile::tempdir().unwrap();
        let (copy, mut frame, tail) = copied(dir.path(), 300_000);
        frame[123_456] ^= 1;
        std::fs::write(copy.path(), &frame).unwrap();
        for size in [1000, 8 << 20] {
            assert_eq!(parts(&copy, &tail, size).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
        frame.truncate(200_000);
        std::fs::write(copy.path(), &frame).unwrap();
        assert_eq!(parts(&copy, &tail, 1000).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn parts_are_as_small_as_their_number_allows() {
        assert_eq!(part_size(0), 8 << 20);
        for bytes in [1, 80 << 30, 100 << 30, 5 << 40] {
            let size = part_size(bytes);
            assert!(bytes.div_ceil(size) <= PARTS_MAX && size.is_multiple_of(1 << 20), "{bytes}: {size}");
        }
        assert_eq!(part_size(100 << 30), 11 << 20);
    }
}
