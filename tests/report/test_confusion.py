"""The confusion matrix of a report: the colour scale ignores the diagonal."""

from digitlab.report.confusion import confused_pairs, heat_map
from digitlab.report.records import Confusion

CONFUSION = Confusion(["cat", "dog"], [[90, 10], [1, 19]])


def test_the_largest_error_has_the_full_shade_and_the_diagonal_none():
    (cat, first), (dog, second) = heat_map(CONFUSION)
    assert (cat, dog) == ("cat", "dog")
    assert [cell.shade for cell in first] == [0, 1]
    assert [cell.shade for cell in second] == [0.5, 0]
    assert [cell.share for cell in first] == [0.9, 0.1]


def test_a_matrix_without_errors_has_no_shade():
    rows = heat_map(Confusion(["cat", "dog"], [[5, 0], [0, 5]]))
    assert {cell.shade for _, cells in rows for cell in cells} == {0.0}


def test_most_confused_is_sorted_by_count():
    assert [(pair.true, pair.predicted, pair.count, pair.share) for pair in confused_pairs(CONFUSION, pairs=2)] == [
        ("cat", "dog", 10, 0.1),
        ("dog", "cat", 1, 0.05),
    ]
