//! The ways in which strips and tiles are packed, but for JPEG.

use std::io::Read;

use fax::decoder::{DecodeStatus, Group3Decoder, Group4Decoder, pels};
use flate2::read::ZlibDecoder;
use weezl::{BitOrder, LzwStatus};

use super::{corrupt, truncated, unsupported};
use crate::error::ImageError;

/// Ends with the rows that are wanted, as some writers leave out the code of the end.
pub(super) fn lzw(packed: &[u8], size: usize) -> Result<Vec<u8>, ImageError> {
    let mut decoder = weezl::decode::Decoder::with_tiff_size_switch(BitOrder::Msb, 8);
    let mut out = vec![0; size];
    let (mut from, mut to) = (0, 0);
    while to < size {
        let done = decoder.decode_bytes(&packed[from..], &mut out[to..]);
        from += done.consumed_in;
        to += done.consumed_out;
        match done.status {
            Ok(LzwStatus::Ok) if done.consumed_in + done.consumed_out > 0 => {}
            Ok(_) => break,
            Err(e) => return Err(corrupt(e.to_string())),
        }
    }
    out.truncate(to);
    Ok(out)
}

pub(super) fn deflate(packed: &[u8], size: usize) -> Result<Vec<u8>, ImageError> {
    let mut out = Vec::new();
    match ZlibDecoder::new(packed).take(size as u64).read_to_end(&mut out) {
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Err(truncated()),
        Err(e) => Err(corrupt(e.to_string())),
        Ok(_) => Ok(out),
    }
}

pub(super) fn pack_bits(packed: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(size);
    let mut rest = packed;
    while let [head, more @ ..] = rest
        && out.len() < size
    {
        match head.cast_signed() {
            -128 => rest = more,
            count @ 0.. => {
                let (bytes, behind) = more.split_at((count as usize + 1).min(more.len()));
                out.extend_from_slice(bytes);
                rest = behind;
            }
            count => {
                let (Some(byte), times) = (more.first(), 1 - isize::from(count)) else { break };
                out.extend(std::iter::repeat_n(*byte, times as usize));
                rest = &more[1..];
            }
        }
    }
    out.truncate(size);
    out
}

/// Bits of a line of a fax, of which black is 1.
fn fax_line(out: &mut Vec<u8>, transitions: &[u16], width: u16) {
    let mut pixels = pels(transitions, width).map(|color| color == fax::Color::Black);
    for _ in 0..width.div_ceil(8) {
        let bits = (0..8).rev().map(|bit| u8::from(pixels.next() == Some(true)) << bit);
        out.push(bits.sum());
    }
}

fn fax_width(width: usize) -> Result<u16, ImageError> {
    u16::try_from(width).map_err(|_| unsupported("a fax of more than 65535 columns"))
}

pub(super) fn group_4(packed: &[u8], width: usize, rows: usize) -> Result<Vec<u8>, ImageError> {
    let width = fax_width(width)?;
    let bytes = packed.iter().map(|b| Ok::<_, std::convert::Infallible>(*b));
    let mut decoder = Group4Decoder::new(bytes, width).map_err(|_| truncated())?;
    let mut out = Vec::new();
    for _ in 0..rows {
        match decoder.advance() {
            Ok(DecodeStatus::Incomplete) => fax_line(&mut out, decoder.transition(), width),
            // White lines at the end may be left out.
            Ok(DecodeStatus::End) => fax_line(&mut out, &[], width),
            Err(_) => return Err(corrupt("a line of a fax of no known codes")),
        }
    }
    Ok(out)
}

pub(super) fn group_3(packed: &[u8], width: usize, rows: usize) -> Result<Vec<u8>, ImageError> {
    let width = fax_width(width)?;
    let bytes = packed.iter().map(|b| Ok::<_, std::convert::Infallible>(*b));
    let fault = |_| corrupt("a line of a fax of no known codes");
    let mut decoder = Group3Decoder::new(bytes).map_err(fault)?;
    let mut out = Vec::new();
    for _ in 0..rows {
        // Nothing need follow the last line.
        let ended = decoder.advance().err();
        match ended {
            Some(e) if decoder.transitions().last() != Some(&width) => return Err(fault(e)),
            _ => fax_line(&mut out, decoder.transitions(), width),
        }
    }
    Ok(out)
}
