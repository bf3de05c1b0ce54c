//! Compressing: a file read and written as one LZ4 frame by one thread, with the blocks and checksums that objects have.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// Compresses `from` into `to`; returns the bytes of the file and of the frame. Nothing waits for the disk.
pub(crate) fn compress(from: &Path, to: &Path) -> Result<(u64, u64)> {
    let mut file = File::open(from).with_context(|| from.display().to_string())?;
    let sink = File::create(to).with_context(|| to.display().to_string())?;
    let raw_size = file.metadata()?.len();
    let info = FrameInfo::new()
        .block_mode(BlockMode::Independent)
        .block_size(BlockSize::Max256KB)
        .block_checksums(true)
        .content_checksum(true)
        .content_size(Some(raw_size));
    let mut encoder = FrameEncoder::with_frame_info(info, Counted { sink, bytes: 0 });
    let mut chunk = vec![0; CHUNK];
    loop {
        let n = file.read(&mut chunk)?;
        if n == 0 {
            break;
        }
        encoder.write_all(&chunk[..n])?;
    }
    Ok((raw_size, encoder.finish()?.bytes))
}

struct Counted {
    sink: File,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.sink.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
