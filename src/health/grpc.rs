//! The two messages of `grpc.health.v1.Health/Check`, in gRPC's frames.
//!
//! Written out by hand: each has one field, and a protobuf compiler for two fields would outweigh them
//! (<https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, <https://protobuf.dev/programming-guides/encoding>).

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

/// `:path` of the request.
pub(super) const PATH: &str = "/grpc.health.v1.Health/Check";

/// The largest response that is read. A well-formed one has seven bytes.
pub(super) const MAX_RESPONSE: usize = 1024;

/// Flag and length in front of each message.
const PREFIX: usize = 5;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u64 = 1;

/// `HealthCheckRequest { service }`, framed.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2); // field 1, length-delimited
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0); // not compressed
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.put(message);
    framed.freeze()
}

/// Whether a framed `HealthCheckResponse` says SERVING; None when it is none.
pub(super) fn is_serving(mut framed: Bytes) -> Option<bool> {
    if framed.len() < PREFIX || framed.get_u8() != 0 || framed.get_u32() as usize != framed.len() {
        return None;
    }
    let mut status = 0; // UNKNOWN, as protobuf leaves a zero out
    while framed.has_remaining() {
        let tag = varint(&mut framed)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut framed)?,
            (_, 0) => drop(varint(&mut framed)?),
            (_, 1) => skip(&mut framed, 8)?,
            (_, 2) => {
                let length = varint(&mut framed)?;
                skip(&mut framed, length)?;
            }
            (_, 5) => skip(&mut framed, 4)?,
            _ => return None,
        }
    }
    Some(status == SERVING)
}

fn put_varint(to: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        to.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    to.put_u8(value.to_le_bytes()[0]);
}

fn varint(from: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = from.try_get_u8().ok()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn skip(from: &mut Bytes, length: u64) -> Option<()> {
    let length = usize::try_from(length).ok().filter(|length| *length <= from.len())?;
    from.advance(length);
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_are_framed_as_grpc_says() {
        assert_eq!(&request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        let long = request(&"x".repeat(300));
        assert_eq!(&long[..8], [0, 0, 0, 1, 0x2f, 0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_serving_is_serving() {
        let cases: [(&[u8], Option<bool>); 12] = [
            (&[0, 0, 0, 0, 2, 8, 1], Some(true)),
            (&[0, 0, 0, 0, 2, 8, 2], Some(false)),
            (&[0, 0, 0, 0, 0], Some(false)),
            (&[0, 0, 0, 0, 3, 8, 0x81, 0], Some(true)), // a longer form of the same number
            (&[0, 0, 0, 0, 6, 0x12, 2, 8, 2, 8, 1], Some(true)), // a field we do not know comes first
            (&[0, 0, 0, 0, 2, 8, 1, 0], None),          // more than it says
            (&[0, 0, 0, 0, 3, 8, 1], None),             // less than it says
            (&[1, 0, 0, 0, 2, 8, 1], None),             // compressed, which we did not offer
            (&[0, 0, 0, 0, 2, 8, 0x80], None),          // a number without end
            (&[0, 0, 0, 0, 2, 0x12, 9], None),          // a field that reaches beyond the message
            (&[0, 0, 0, 0, 1, 0x0b], None),             // a group
            (&[], None),
        ];
        for (bytes, serving) in cases {
            assert_eq!(is_serving(Bytes::from_static(bytes)), serving, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_response_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = vec![0, 0, 0, 0, u8::try_from(bytes.len()).unwrap()];
            framed.extend(&bytes);
            is_serving(framed.into());
            is_serving(bytes.into());
        }
    }
}
