"""The pure parts of sweep.py; run with `python -m unittest` in this directory. No server is needed."""

import contextlib
import io
import unittest

from sweep import as_text, best_of, blocks_of_plan, indexes_of_plan, least_probes, lists_to_try, parse, recall


def plan(hit, read, **more):
    return {
        "Shared Hit Blocks": hit,
        "Shared Read Blocks": read,
        "Local Hit Blocks": 0,
        "Local Read Blocks": 0,
        **more,
    }


class Sweep(unittest.TestCase):
    def test_lists_span_both_rules_of_thumb(self):
        tried = lists_to_try(11_400, 9)
        self.assertEqual((tried[0], tried[-1], len(tried)), (11, 427, 9))

    def test_lists_of_a_tiny_table_are_distinct_and_positive(self):
        self.assertEqual(lists_to_try(1, 9), [1, 2, 3, 4])

    def test_least_probes_equals_trying_all(self):
        for lists in (1, 2, 7, 100):
            for answer in range(1, lists + 1):
                asked = []

                def recall_at(probes, answer=answer, asked=asked):
                    asked.append(probes)
                    return 1.0 if probes >= answer else 0.5

                self.assertEqual(least_probes(recall_at, 0.9, lists), answer)
                self.assertLessEqual(len(asked), 14)

    def test_known_recalls_narrow_the_search(self):
        curve = {probes: probes / 100 for probes in range(1, 101)}
        self.assertEqual(least_probes(curve.__getitem__, 0.9, 100, {10: 0.1, 89: 0.89, 90: 0.9}), 90)

    def test_recall_counts_equally_distant_rows(self):
        # Two true neighbours at 0.1 and 0.2. The first query found another row at 0.2; the second found one of two.
        self.assertEqual(recall([[0.1, 0.2], [0.1, 0.3]], [0.2, 0.2], 2), 0.75)

    def test_recall_counts_missing_rows_as_missed(self):
        self.assertEqual(recall([[]], [0.2], 2), 0.0)

    def test_blocks_add_shared_and_local(self):
        self.assertEqual(blocks_of_plan({**plan(3, 4), "Local Hit Blocks": 5, "Local Read Blocks": 6}), 18)

    def test_indexes_are_found_below_the_limit(self):
        self.assertEqual(indexes_of_plan(plan(1, 0, Plans=[plan(1, 0, **{"Index Name": "i"})])), {"i"})
        self.assertEqual(indexes_of_plan(plan(1, 0, Plans=[plan(1, 0)])), set())

    def test_text_carries_a_float32_exactly(self):
        self.assertEqual(as_text([0.1, -2.0]), "[0.1,-2]")

    def test_best_prefers_fewer_blocks_then_fewer_lists(self):
        rows = [{"lists": 9, "blocks": 5}, {"lists": 3, "blocks": 5}, {"lists": 1, "blocks": 6}]
        self.assertEqual(best_of(rows)["lists"], 3)

    def test_held_out_rows_cannot_judge(self):
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            parse(["uri", "t", "--judge", "t"])


if __name__ == "__main__":
    unittest.main()
