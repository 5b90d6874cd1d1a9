//! The vectors of tests/vectors, and the two of docs/format.md.

use super::Site;
use crate::crypto::cell;
use crate::epoch::Epoch;

#[test]
fn the_vectors_of_the_format_page() {
    let site = Site::vector();
    let key = site.key(0);
    assert_eq!(
        key.commitment().to_string(),
        "f30feb6fd5afb0816262deb3d35178a8a3bb85576f16d9a17556c619c8a4be8b"
    );
    let nonce: [u8; 12] = std::array::from_fn(|i| 0xa0 + i as u8);
    let epoch = Epoch::new(300).unwrap();
    for (expiry, hex) in [
        (
            None,
            "0000022c0101f30feb6fd5afb0816262deb3d35178a800000000a0a1a2a3a4a5a6a7a8a9aaabeac9\
             b09f454e58e7b0d611ec2d06bbfe1c3a3935d75c",
        ),
        (
            Some(1_893_456_000),
            "0000022c0101f30feb6fd5afb0816262deb3d35178a870dbd880a0a1a2a3a4a5a6a7a8a9aaabeac9\
             b09f454ec2a70ae092778cf5c23361a942646dab",
        ),
    ] {
        let text = "héllo".as_bytes();
        let cell = cell::seal(&key, epoch, expiry, &nonce, &site.locus(), text).unwrap();
        assert_eq!(hex::encode(&cell), hex);
        assert!(cell::open(&key, &site.locus(), &cell).unwrap().as_bytes() == text);
    }
}
