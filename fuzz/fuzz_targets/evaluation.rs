//! Three lines as a context, a flag and a segment, each of which every key finds: nothing panics or
//! runs away, what is remembered changes no answer, and every answer is JSON.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pilotlight::testing::evaluation::{
    Audience, Context, Evaluator, Flag, Lookup, NoBigSegments, Segment, write_result,
};
use serde::de::IgnoredAny;

struct Items(Flag, Segment);

impl Lookup for Items {
    fn flag(&self, key: &str) -> Option<&Flag> {
        (key != "missing").then_some(&self.0)
    }

    fn segment(&self, key: &str) -> Option<&Segment> {
        (key != "missing").then_some(&self.1)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let Some(Ok(context)) = lines.next().map(Context::parse) else { return };
    context.canonical_key();
    let flag = Flag::parse(lines.next().unwrap_or_default());
    let items = Items(flag, Segment::parse(lines.next().unwrap_or_default()));
    let mut evaluator = Evaluator::new(&items, &context, &NoBigSegments);
    let first = answer(&mut evaluator, &items);
    assert_eq!(answer(&mut evaluator, &items), first, "what is remembered changes the answer");
    assert!(serde_json::from_slice::<IgnoredAny>(&first).is_ok(), "not JSON");
    items.0.is_visible_to(Audience::Browser);
});

fn answer<'a>(evaluator: &mut Evaluator<'a, Items>, items: &'a Items) -> Vec<u8> {
    let mut out = b"{".to_vec();
    let detail = evaluator.evaluate(&items.0);
    write_result(&mut out, "f\"", 1, &items.0, &detail, true);
    out.push(b'}');
    out
}
