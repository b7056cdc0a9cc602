//! The short way of reading a packet against the long one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failing test may panic"
)]

use super::*;

/// xorshift32.
struct Random(u32);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }
}

/// A plain packet of a family: 60 bytes behind the network header's start, or 80.
fn plain(v4: bool, protocol: u8) -> ([u8; 80], usize) {
    let mut bytes = [7; 80];
    if v4 {
        bytes[..4].copy_from_slice(&[0x45, 0, 0, 60]);
        bytes[6..10].copy_from_slice(&[0x40, 0, 64, protocol]);
        (bytes, 60)
    } else {
        bytes[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 40, protocol, 64]);
        (bytes, 80)
    }
}

#[test]
fn plain_packets_are_read_as_by_the_long_way() {
    let mut random = Random(7);
    let (mut short, mut long) = (0, 0);
    for round in 0..200_000 {
        let v4 = round % 2 == 0;
        let protocol = [6, 17, 6, 17, 132, 1, 58, 44, 0][usize::try_from(random.below(9)).unwrap()];
        let (mut bytes, mut length) = plain(v4, protocol);
        for _ in 0..random.below(3) {
            // Mostly in the headers' first bytes, where everything is decided.
            let limit = if random.below(2) == 0 { 12 } else { 80 };
            let at = usize::try_from(random.below(limit)).unwrap();
            bytes[at] = random.byte();
        }
        if random.below(4) == 0 {
            length = usize::try_from(random.below(81)).unwrap();
        }
        let frame = Bytes {
            ethertype: if v4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 },
            gso: random.below(4) == 0,
            bytes: &bytes[..length],
        };
        let mut expected = Packet::EMPTY;
        expected.begin(&frame);
        let result = expected.read_any(&frame);
        let mut packet = Packet::EMPTY;
        packet.begin(&frame);
        if plain::read(&frame, &mut packet) {
            short += 1;
            assert_eq!(result, Ok(()), "round {round}: {frame:02x?}");
            assert_eq!(packet, expected, "round {round}: {frame:02x?}");
        } else {
            long += 1;
            let mut untouched = Packet::EMPTY;
            untouched.begin(&frame);
            assert_eq!(packet, untouched, "round {round}: {frame:02x?}");
        }
    }
    assert!(short > 20_000 && long > 20_000, "{short} {long}");
}
