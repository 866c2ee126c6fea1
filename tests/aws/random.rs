//! Cases by dice.

use crate::case::Case;
use crate::dice::Dice;

/// The case of this number.
pub(crate) fn case(seed: u64, number: usize) -> Case {
    let mut dice = Dice::new(seed.wrapping_mul(1_000_003) ^ u64::try_from(number).expect("small"));
    let mut fields =
        vec!["AWS_ACCESS_KEY_ID=AKIAE".to_owned(), "AWS_SECRET_ACCESS_KEY=secretE".to_owned()];
    if dice.percent(50) {
        fields.push("AWS_SESSION_TOKEN=token-AKIAE".to_owned());
    }
    fields.push(format!("tf region={}", dice.one(&["eu-west-1", "us-east-1", "us-gov-west-1"])));
    Case { name: format!("random-{seed}-{number}"), fields }
}
