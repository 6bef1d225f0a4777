"""The words of the story grammar: who, where, what, and how it looks and feels.

A name belongs to one gender, so that the pronouns of a story follow from its names.
Words are kept to what a byte pair vocabulary of about a thousand entries holds whole.
"""

from __future__ import annotations

BOYS = ("Tom", "Ben", "Max", "Sam", "Pip", "Leo", "Finn", "Toby", "Jack", "Milo", "Otto", "Hugo", "Oscar", "Theo",
        "Rex", "Gus", "Bruno", "Felix", "Ned", "Barney")  # fmt: skip
GIRLS = ("Lily", "Mia", "Anna", "Rosie", "Molly", "Ella", "Daisy", "Ruby", "Nora", "Ivy", "Lucy", "Tilly", "Poppy",
         "Zoe", "Clara", "Maya", "Hazel", "Penny", "Luna", "Bella")  # fmt: skip
ANIMALS = ("fox", "bear", "rabbit", "mouse", "cat", "dog", "duck", "frog", "goat", "hen", "pig", "lamb", "horse",
           "turtle", "squirrel", "hedgehog", "beaver", "deer", "mole", "bird")  # fmt: skip

# Elders that help: what the story calls them, what the hero calls them, pronoun. {his} is the possessive of the hero.
ELDERS = (
    ("{his} mother", "my mother", "she"),
    ("{his} father", "my father", "he"),
    ("{his} grandma", "my grandma", "she"),
    ("{his} grandpa", "my grandpa", "he"),
    ("the wise old owl", "the wise old owl", "she"),
    ("the kind farmer", "the kind farmer", "he"),
    ("the old badger", "the old badger", "he"),
    ("the baker", "the baker", "she"),
)

# Things a child can own: every one is "it", can be any colour, can be carried, lost, broken and mended.
TOYS = ("ball", "kite", "boat", "drum", "hat", "scarf", "book", "bell", "doll", "cart", "lantern", "cup", "basket",
        "bucket", "whistle", "top", "train", "box", "umbrella", "flute")  # fmt: skip
# Where a story happens: phrase after "to", phrase after "was".
PLACES = (
    ("the forest", "in the forest"),
    ("the meadow", "in the meadow"),
    ("the garden", "in the garden"),
    ("the park", "in the park"),
    ("the river", "by the river"),
    ("the lake", "by the lake"),
    ("the hill", "on the hill"),
    ("the beach", "on the beach"),
    ("the village", "in the village"),
    ("the field", "in the field"),
    ("the pond", "by the pond"),
    ("the market", "at the market"),
    ("the old mill", "at the old mill"),
    ("the barn", "in the barn"),
)
# What can be learned: the verb, where, what goes wrong at first, what it looks like when it works.
SKILLS = (
    ("swim", "in the lake", "swallowed a lot of water", "swam across the lake like a fish"),
    ("climb", "in the forest", "slid down again and again", "climbed to the top of the tallest tree"),
    ("dance", "in the barn", "fell over both feet", "danced around the whole barn"),
    ("sing", "in the garden", "made a sound like a rusty door", "sang a long and lovely song"),
    ("whistle", "in the meadow", "made no sound at all", "whistled a tune that all the birds knew"),
    ("skate", "on the pond", "sat down hard on the ice", "skated in a big round circle"),
    ("bake", "in the kitchen", "burned the first cake", "baked a cake that smelled like summer"),
    ("paint", "in the yard", "dropped the paint on the floor", "painted a picture of the moon"),
    ("read", "under a tree", "mixed up all the words", "read a whole book aloud"),
    ("row", "on the river", "went around and around in the boat", "rowed all the way to the island"),
)
# What two friends can make: the thing, what it is made of, what is used the second time.
BUILDS = (
    ("a tree house", "thin sticks", "thick boards"),
    ("a bridge", "old grass", "strong stones"),
    ("a little house", "dry leaves", "heavy bricks"),
    ("a boat", "paper", "good wood"),
    ("a tower", "sand", "flat stones"),
    ("a wall", "mud", "big rocks"),
    ("a tent", "an old sheet", "a thick blanket"),
    ("a sled", "bark", "smooth planks"),
    ("a nest", "straw", "branches and moss"),
)
# Plants: what is sown, what comes of it, what is made of it.
PLANTS = (
    ("pumpkin", "a round pumpkin", "soup"),
    ("bean", "a hundred green beans", "stew"),
    ("carrot", "a very long carrot", "salad"),
    ("apple", "a tree full of apples", "pie"),
    ("berry", "a bush full of berries", "jam"),
    ("melon", "a sweet melon", "juice"),
    ("turnip", "a turnip as big as a chair", "soup"),
    ("cherry", "a tree full of cherries", "cake"),
)

# Free words: drawn anew each time, nothing later in a story depends on them.
FREE: dict[str, tuple[str, ...]] = {
    "look": ("big", "small", "tiny", "tall", "old", "round", "long", "huge", "soft", "pretty", "funny", "strange",
             "shiny", "lovely", "bright", "wet", "quiet", "cold", "warm", "sweet", "new", "heavy", "light", "fine"),
    "colour": ("red", "blue", "green", "yellow", "pink", "purple", "orange", "white", "brown", "black", "golden"),
    "number": ("two", "three", "four", "five", "six", "seven", "ten", "many"),
    "creatures": ("ducks", "birds", "bees", "frogs", "rabbits", "fish", "cows", "ants", "sheep", "geese", "snails",
                  "mice", "horses", "goats", "hens", "pigs", "cats", "dogs", "owls", "bears"),
    "thing": ("stone", "leaf", "flower", "tree", "bush", "log", "wall", "gate", "bench", "boat", "cart", "house",
              "tent", "barrel", "fence", "shell", "ladder", "well", "hat", "bell", "chair", "rock", "basket", "box"),
    "spot": ("under a bush", "behind a rock", "in the tall grass", "under the bench", "behind the fence",
             "in a hollow tree", "next to the well", "near the gate", "under a big leaf", "between two stones",
             "in the cart", "behind a log"),
    "nook": ("under the bed", "behind the door", "in the box", "under the table", "on the roof", "behind the barrel",
             "in the kitchen", "next to the window"),
    "corner": ("in the house", "in the cellar", "under the stairs", "in the yard", "behind the house"),
    "food": ("apples", "pears", "carrots", "berries", "nuts", "cookies", "plums", "cherries", "pies", "cakes",
             "buns", "beans"),
    "meal": ("warm soup", "fresh bread", "apple pie", "honey cake", "hot stew", "berry jam", "sweet milk", "nut cake",
             "carrot soup", "fresh milk", "warm bread", "hot pie", "cherry cake", "sweet jam"),
    "weather": ("sunny", "rainy", "windy", "cold", "warm", "cloudy", "bright", "foggy", "snowy", "hot"),
    "time": ("morning", "afternoon", "day", "evening"),
    "glad": ("happy", "glad", "cheerful", "full of joy"),
    "game": ("hide and seek", "tag", "ball", "catch", "a guessing game", "pirates", "a jumping game", "house"),
    "softly": ("softly", "quietly", "kindly", "gently", "slowly"),
    "said": ("said", "said", "called", "whispered", "answered"),
    "fast": ("quickly", "fast", "at once", "right away", "as fast as the wind"),
    "gift": ("flower", "shell", "feather", "stone", "leaf", "button", "coin", "ribbon", "necklace", "crown"),
    "stuff": ("paper", "wood", "shells", "wool", "flowers", "clay", "string", "leaves"),
    "noise": ("tap, tap", "knock, knock", "crack", "boom", "bump, bump", "bang", "splash"),
    "wind": ("a strong wind", "a big storm", "a sudden rain", "a heavy snow", "a clumsy cow", "a large wave"),
}  # fmt: skip
FREE["adj"] = FREE["look"] + FREE["colour"]
