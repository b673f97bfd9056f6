import pytest

from lib.vocabulary import Vocabulary, normalize, vocabulary_of


@pytest.mark.parametrize(('voc_type', 'classes'), [('LOWERCASE', 39), ('ALLCASES', 65), ('ALLCASES_SYMBOLS', 97)])
def test_class_counts_of_asters_vocabularies(voc_type, classes):
    assert len(Vocabulary(voc_type)) == classes
    assert vocabulary_of(classes).voc_type == voc_type


def test_specials_come_last():
    vocabulary = Vocabulary()
    assert (vocabulary.eos, vocabulary.padding, vocabulary.unknown) == (94, 95, 96)
    assert vocabulary.encode('0aZ~') == [0, 10, 61, 93, 94]


def test_strings_come_back():
    vocabulary = Vocabulary()
    text = vocabulary.characters
    assert vocabulary.decode(vocabulary.encode(text) + [5, 5]) == text  # what stands behind EOS is not read


def test_foreign_characters_are_unknown_and_print_nothing():
    vocabulary = Vocabulary('LOWERCASE')
    ids = vocabulary.encode('Ca\u00f1on 1')
    assert ids.count(vocabulary.unknown) == 2
    assert vocabulary.decode(ids) == 'caon1'


def test_unknown_types_and_sizes_are_refused():
    with pytest.raises(ValueError, match='KLINGON'):
        Vocabulary('KLINGON')
    with pytest.raises(ValueError, match='98'):
        vocabulary_of(98)


@pytest.mark.parametrize(('word', 'counts'),
                         [('Hello!', 'hello'), ('$10.00', '1000'), ('\u00c9cole', 'cole'), ('--', '')])
def test_only_letters_and_digits_count(word, counts):
    assert normalize(word) == counts
