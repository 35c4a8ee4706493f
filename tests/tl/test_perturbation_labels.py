import pytest

from mmopt.tl._perturbation_labels import agree, by_name, plain, read_label, spelled


@pytest.mark.parametrize(
    ("label", "name", "full"),
    [
        ("GATA1", "GATA1", "GATA1"),
        ("rna:GATA1_knockout", "GATA1", "GATA1_knockout"),
        ("SPI1 + GATA1", "GATA1+SPI1", "GATA1+SPI1"),
        ("SPI1+GATA1_knockdown", "GATA1+SPI1", "GATA1_knockdown+SPI1_knockdown"),
        ("GATA1_knockout+SPI1_overexpress", "GATA1+SPI1", "GATA1_knockout+SPI1_overexpress"),
        ("chr1:100-600_block", "chr1:100-600", "chr1:100-600_block"),
        ("atac:chr1:100-600_block", "chr1:100-600", "chr1:100-600_block"),
    ],
)
def test_labels_are_read(label, name, full):
    hits = read_label(label)
    assert plain(hits) == name
    assert spelled(hits) == full


def test_peaks_of_two_chromosomes_are_two_peaks():
    assert plain(read_label("chr1:100-600_block")) != plain(read_label("chr2:100-600_block"))


def test_a_mode_that_is_not_said_agrees_with_any():
    knocked, raised, silent = map(read_label, ("A_knockout", "A_overexpress", "A"))
    assert agree(knocked, silent) and agree(silent, raised)
    assert not agree(knocked, raised)
    assert not agree(knocked, read_label("B_knockout"))


def test_two_modes_of_the_same_are_refused():
    assert list(by_name(map(read_label, ("B+A", "A+B", "C")), "predicted")) == ["A+B", "C"]
    with pytest.raises(
        ValueError, match="predicted: 'A' is there twice, as 'A_knockout' and 'A_overexpress'"
    ):
        by_name(map(read_label, ("A_knockout", "A_overexpress")), "predicted")
