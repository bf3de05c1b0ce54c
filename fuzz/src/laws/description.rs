//! The end of an object: trailer, description, and how much of it has to be read.
//!
//! Input: a line that begins with `{` is a description, put into a correct tail; anything else is the tail itself.

use litesnap::object::{DESCRIPTION_LEN_MAX, TAIL_LEN_USUAL, Tail, read_description};

use super::{gauge, is_one_line, objects};

const TAIL_LEN_MAX: usize = DESCRIPTION_LEN_MAX + 40;

pub fn check(data: &[u8]) {
    let made = data.starts_with(b"{").then(|| objects::tail(data));
    let tail = made.as_deref().unwrap_or(data);
    let (read, taken) = gauge::peak(|| read_description(tail));
    assert!(taken <= 8 * tail.len() + (16 << 10), "{taken} bytes taken for {}", tail.len());
    match read {
        Ok(Tail::NeedMore(wanted)) => wants_more(tail, wanted),
        Ok(Tail::Whole { description, object_size }) => {
            let json_len = u32::from_le_bytes(tail[tail.len() - 20..][..4].try_into().expect("4 bytes")) as usize;
            assert_eq!(object_size, description.frame_size + json_len as u64 + 40);
            comes_back(&description);
            says_the_same_behind_other_bytes(tail);
            no_flipped_bit_is_read(tail, json_len);
        }
        Err(e) => is_one_line(&super::told(&e)),
    }
}

/// More is asked for than there is, not without bound, and not twice.
fn wants_more(tail: &[u8], wanted: usize) {
    assert!(wanted > tail.len() && wanted <= TAIL_LEN_MAX, "{wanted} wanted, {} there", tail.len());
    assert!(tail.len() >= 32 || wanted == TAIL_LEN_USUAL);
    let more = [vec![0; wanted - tail.len()], tail.to_vec()].concat();
    let again = read_description(&more);
    assert!(!matches!(again, Ok(Tail::NeedMore(more)) if tail.len() >= 32 && more > wanted), "asked for more twice");
}

fn comes_back(description: &litesnap::object::Description) {
    let mut written = Vec::new();
    description.append_to(&mut written);
    let Ok(Tail::Whole { description: again, .. }) = read_description(&written) else { panic!("{description:?}") };
    assert_eq!(*again, *description);
    let json = serde_json::to_vec(description).expect("text and numbers");
    assert_eq!(written, objects::tail(&json), "the tail is the one of the document");
}

fn says_the_same_behind_other_bytes(tail: &[u8]) {
    let longer = [b"anything", tail].concat();
    assert_eq!(read_description(&longer).ok(), read_description(tail).ok());
}

/// One bit in each byte of the trailer, and one anywhere before it; which one, the input decides.
fn no_flipped_bit_is_read(tail: &[u8], json_len: usize) {
    let last = tail.len() - 1;
    let anywhere = last - (usize::from(tail[last]) * 31 + last) % (json_len + 40);
    for at in (tail.len() - 32..tail.len()).chain([anywhere]) {
        let mut damaged = tail.to_vec();
        damaged[at] ^= 1 << (tail[at] % 8);
        match read_description(&damaged) {
            Ok(Tail::Whole { .. }) => panic!("a flipped bit at {at} of {} went unnoticed", tail.len()),
            Ok(Tail::NeedMore(_)) | Err(_) => {}
        }
    }
}
