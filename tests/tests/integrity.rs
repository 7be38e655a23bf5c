//! A little of the integrity campaign, with all kinds of files and of damage.

use esker_tests::integrity::{Campaign, Effort, Kind, Specimen};

/// The whole of it is `campaign --integrity`.
#[test]
fn no_damage_to_a_closed_database_changes_an_answer_unnoticed() {
    let specimens = vec![Specimen::main(1), Specimen::few_tombs(1)];
    let campaign = Campaign::new(1, specimens);
    let effort = Effort {
        threads: 2,
        from: 0,
        to: u64::MAX,
        sample: Some(16),
        seconds: None,
        enough: 25,
    };
    let tally = campaign.run(&effort, &|_, _| {});
    assert!(tally.failures.is_empty(), "{:#?}", tally.failures);
    for kind in Kind::ALL {
        let seen = tally.of(kind);
        assert!(seen.cases > 0, "no case with a {}", kind.name());
        let noticed = seen.detected() > 0;
        assert_eq!(noticed, kind != Kind::Lock, "{}: {seen:?}", kind.name());
    }
    assert!(tally.of(Kind::Segment).at_read > 100, "{}", tally.tables());
}
