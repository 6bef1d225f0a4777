"""The plots of the story grammar, as templates (their language: `story_grammar.py`; line breaks count as spaces).

Keys without prefix belong to the hero, with ``f`` to the friend, with ``e`` to the elder.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """The sentences between opening and ending, and the lesson that a story may close with."""

    text: str
    lesson: str


# Phrases that many sentences share: ``@key`` in a template stands for the phrase.
PHRASES = {
    "named": "[named|called]",
    "day": "[One|One <weather>|On a <weather>|Early one|Then, one] <time>,",
    "felt": "[felt|was] [|very |so |a little |really ]",
    "young": "[|little |young |small |kind |funny |brave |merry ]",
    "home": """
        [near the <size> <thing>|in a <size> house|in a <colour> house|at the edge of the forest|by the river|on a
        <size> hill|in a <look> little village|under a <size> tree]
    """,
    "met": """
        [Then|Just then|Soon|After a while], [{he} met a @young{fkind} @named {fname}|a @young{fkind} came
        [by|along|down the road]. {Fhis} name was {fname}].
    """,
    "alone": """
        [||On the way, {he} saw <number> <look> <creatures>[| and a <size> <colour> <thing>].|{He} [went|walked|ran]
        past a <size> <thing>, a <colour> <thing> and <number> <creatures>.|Some <colour> <creatures> [looked
        at|watched] {him} from a <seat>.]
    """,
    "together": """
        [||On the way, they saw <number> <look> <creatures>[| and a <size> <colour> <thing>].|They [went|walked|ran]
        past a <size> <thing>, a <colour> <thing> and <number> <creatures>.|Some <colour> <creatures> [looked
        at|watched] them from a <seat>.]
    """,
}

OPENINGS = (
    "Once upon a time, there was a @young{kind} @named {name}.[| {name} lived @home.| {He} lived @home.]",
    "Once upon a time, there was a [little|{trait}] {kind} @named {name}[|, who lived @home].",
    "Once upon a time there was a [little|young|small|{trait}] {kind} @named {name}[|, who lived @home].",
    "Once upon a time, there lived a @young{kind}. {His} name was {name}.",
    "Once upon a time, a [little|young|{trait}] {kind} @named {name} lived @home.",
    "Once upon a time, @home, there lived a [little|small|{trait}] {kind} @named {name}.",
    "[Long ago|Once], there was a [little|young|{trait}] {kind} @named {name}.[| {He} lived @home.]",
    "{name} was a [little|young|small|very {trait}] {kind} who lived @home.",
)

BEFORE = (
    """{name} [liked|loved] to [play <game>|count the <creatures>|eat <food>|eat <meal>|sit on a <size> <seat>|look at
    the <creatures>|draw <colour> <creatures>|tell stories|run in the rain].""",
    "Every <time>, {he} [ate <meal>|fed the <creatures>|ran around the <thing>|picked <food>|sang a <look> song].",
    "Near {his} home there was a <size> <thing> where <number> <look> <creatures> lived.",
    "Everyone [liked|knew|loved] {name}, because {he} was [always|so|very] {trait}.",
)

PLOTS = (
    Plot(  # a lost toy is found
        """
        {name} had a [|<look> ]{colour} {toy}[| from {elder}]. [{He} loved it very much|It was {his} best thing|{He}
        took it everywhere|{He} played with it all day].
        @day {he} [went to {place}|played {atplace}], and when {he} came home, the {toy} was gone.
        {name} looked <nook>[|, <corner>] and <spot>, but it was not there. {He} @felt{sad}.
        @met "[What is wrong|Why are you {sad}|Why do you cry]?" asked {fname}.
        "[I lost|I cannot find] my {colour} {toy}," said {name}. "[I will help you|Do not worry, we will find it|Let
        us look for it]," <said> {fname}.
        They [went|walked|ran] back to {place}. @together [At last|Suddenly|Then], {fname} saw something {colour}
        <spot>.
        It was the {toy}! {name} [hugged {fname}|jumped up and down|was so <glad>].
        """,
        "{name} learned that [a good friend helps you look|it is good to ask for help].",
    ),
    Plot(  # somebody is stuck
        """
        @day {name} [went|walked] to {place} to [pick|look for|find] {food}. @alone
        Suddenly, {he} heard a [small|sad|soft] voice. "[Help|Please help me|I am stuck]!" It was a {fkind} @named
        {fname}. {Fhe} was stuck in [a deep hole|the mud|a <thing>|a net].
        {name} pulled and pulled, but {he} was not strong enough. So {he} [ran to {elder}|called {elder}] <fast>.
        [They came back with a long rope|{Elder} took a <size> rope and came along|{Elder} brought a <size> stick].
        Together they pulled [one|two|three] times, and pop! {fname} was free. "[Thank you|You saved me|You are so
        {trait}], {name}!" {fhe} said.
        {fname} gave {name} a [|<look> ]{colour} {gift}. {name} [put the {colour} {gift} <nook>|kept the {gift} for
        ever|showed the {gift} to {elder}].
        """,
        "{name} learned that [nobody is too small to help|two are stronger than one].",
    ),
    Plot(  # a noise in the night
        """
        One [dark|cold|windy|quiet] night, {name} heard a noise. <Noise>! It came from the [window|door|garden|roof].
        {name} @felt[scared|afraid]. {He} [hid under the blanket|closed {his} eyes|held {his} {colour} {toy}].[|
        <Noise>! It came again.]
        {name} ran to {elder}. "[There is a monster outside|I am scared|I cannot sleep]," {he} said.
        "[Let us look together|Let us go and see|Take my hand]," said {elder}. {Ehe} [took|picked up|lit] a <colour>
        lantern and opened the door <softly>.
        There was no monster. It was only a [wet|cold|tiny] {fkind} @named {fname}. "[I am cold|I lost my way|I am so
        hungry]," <said> {fname}.
        {name} [laughed|smiled|was not scared any more]. {He} gave {fname} <meal> and a <colour> blanket.
        [Soon|In the end], they [fell asleep next to the fire|played <game> until late|talked about the <creatures>].
        """,
        "{name} learned that [a noise in the dark can be a friend|it helps to look at what you fear].",
    ),
    Plot(  # learning takes time
        """
        {name} wanted to learn to {skill}. [All the <creatures> could do it|It looked so easy|{Elder} could {skill}
        very well].
        @day {he} tried it {where}, but {he} {failed}. [The <look> <creatures> laughed|A <look> bird
        laughed|Everyone laughed]. {name} @felt{sad}.
        "I will never {skill}," {he} [said|cried]. @met
        "I can {skill}," said {fname}. "[I will show you|Let me teach you|It just takes time|Do not give up]."
        {name} tried [again and again|every <time>|for <number> days]. {fname} [helped {him}|told {him} what to
        do|never laughed], and {elder} brought them <meal>.
        [Then, one <time>|At last], {name} {managed}. [Everyone clapped|The <creatures> cheered|{Elder} was proud].
        "[I can {skill}|Look at me]!" {he} [said|shouted]. "[I knew it|You did it|Well done], {name}!" said {fname}.
        """,
        "{name} learned that [you must not give up|everything is hard before it is easy].",
    ),
    Plot(  # sharing food
        """
        @day {elder} gave {name} a basket with <number> {food}[, <meal>|] and a <size> bottle of milk.
        {name} [took|carried] the basket to {place}. @alone
        @met {fname} @felt[hungry|{sad}].
        "[I have had no food all day|My bag is empty|I lost my lunch]," <said> {fname}. {name} looked at the basket.
        {He} was hungry too.
        But then {he} [smiled|had an idea]. "[Eat with me|Let us share|You can have half of it]," <said> {name}. They
        sat down on a <size> <seat> and ate all the {food}.
        [After that|Then], it began to rain. {name} had no umbrella, but {fname} had a <size> {colour} umbrella.
        "[Now I can help you|Come under here|Now it is my turn]," <said> {fname}. They walked home under the {colour}
        umbrella.
        """,
        "{name} learned that [food tastes better when you share it|a kind thing comes back to you].",
    ),
    Plot(  # a broken toy is mended
        """
        {name} and {his} friend {fname} the {fkind} [often|always] played with a {colour} {toy}.
        @day they were {atplace} when {fname} [dropped|fell on|sat on] the {toy}. <Noise>! It broke in
        [two|three|many] pieces.
        "I am so sorry," <said> {fname}. {Fhe} @felt{sad}. {name} [wanted to cry|said nothing|was angry].
        "[Let us ask|Let us go to] {myelder}," said {name}. @together {Elder} looked at the {toy} and [smiled|nodded].
        "[I can mend that|That is easy|We can do it together]," {ehe} said. {Ehe} took some <stuff> and some <colour>
        <stuff>[|, and they all helped].
        Soon, the {colour} {toy} was [as good as new|even better than before|whole again].
        Then {name} gave it to {fname}. "[You can play first|It is for both of us|I am not angry any more]," {he}
        said.
        """,
        "They learned that [a friend is worth more than a {toy}|many broken things can be mended].",
    ),
    Plot(  # telling the truth
        """
        {name} had a friend, a @young{fkind} @named {fname}. They liked to play {game} together.
        @day they played {game} in the house of {elder}. {name} ran too fast. <Noise>! A <look> {colour} {pot} fell
        down and broke.
        {name} @felt[scared|afraid]. "[Let us hide it <nook>|Let us run away|We can say it was the wind]," {he} said.
        "No," said {fname} <softly>. "[You must tell the truth|That would not be right|Let us say that we are sorry]."
        So {name} [went|walked slowly] to {elder}. "I broke the {colour} {pot}," {he} said. "I am [very|so] sorry."
        {Elder} was not angry. "[Thank you for telling me|It was only a {pot}|That was brave of you]," {ehe} said.
        "[Let us clean it up|You can help me make a new one]."
        They made a new {pot} from [clay|wood] and painted it <colour>. {fname} painted <number> <look> <creatures> on
        it.
        """,
        "{name} learned that [the truth makes the heart light|it is brave to say sorry].",
    ),
    Plot(  # a small one is brought home
        """
        @day {name} found a baby {small} <spot>. The baby {small} was [all alone|crying|shaking].
        "[Where is your mother|Where do you live|Are you lost]?" asked {name}. "[I do not know|I want to go home|I
        cannot find her]," said the baby {small}.
        {name} gave the baby {small} some <food>. Then {he} went to {his} friend {fname} the {fkind}.
        "I saw a big {small} {atplace}," said {fname}. "[Let us go|Follow me|Come with me]!"
        They [walked|went] to {place}. @together
        [There|At last], they found the mother. She was looking for her baby <spot>. "[My little one|There you are]!"
        she [said|cried].
        The mother gave {name} a <look> {gift}[| and {fname} a <colour> {gift}]. The baby {small} [waved|laughed|was
        <glad>].
        """,
        "{name} learned that [it feels good to help|even a long way is short with a friend].",
    ),
    Plot(  # building it twice
        """
        {name} had a friend, a @young{fkind} @named {fname}. @day they [wanted|began] to build {build} {atplace}.
        They took {weak} and worked [all <time>|very hard|for hours]. {name} [sang|made a plan|painted it <colour>],
        and {fname} [held everything|looked for more|brought <meal>].
        But then came <wind>, and everything fell down. {fname} @felt{sad}. {name} [kicked a <seat>|wanted to go
        home|did not know what to do].
        Then {elder} came along. "[Use {strong}|Try it with {strong}|You need {strong}]," {ehe} said.
        So they got {strong} and [began again|started over|worked for <number> days]. @together
        This time, it was [strong|perfect|much better]. Not even <wind> could break it. They [sat down|had a party]
        and ate <meal>.
        """,
        "They learned that [good work takes time|you can always try again].",
    ),
    Plot(  # a treasure
        """
        @day {name} found an old map <nook>. It showed a path to {place} and a {colour} star.
        {He} ran to {his} friend {fname} the {fkind}. "[Look what I found|It is a treasure map]!" said {name}. "[Let
        us go there|We must find it]!" said {fname}.
        @together They went over a <size> bridge and around a <look> <thing>.
        [Soon|Then], {fname} @felt[tired|scared|afraid]. {name} was {trait} and took {fhis} hand.
        [At last|After <number> hours], they came to {place}. They [dug|looked] <spot> and found a <size> {colour}
        box.
        In the {colour} box [there were|lay] <number> <colour> [shells|stones|coins|buttons|feathers|bells] and a
        <look> {gift}.
        So they shared [it all|everything], and {elder} got the {gift}.
        """,
        "{name} knew that [{fname} was the real treasure|it is good to share].",
    ),
    Plot(  # patience
        """
        @day {elder} gave {name} a <size> {seed} seed. {name} planted it next to a <size> <thing>.
        Every <time>, {he} gave it water and [sang to it|talked to it|waited]. But nothing came. {name} @felt{sad}.
        "[My seed is asleep|It does not grow|Maybe it is a bad seed]," {he} told {his} friend {fname} the {fkind}.
        "[You have to wait|Be patient|Give it time]," <said> {fname}. So they [played {game}|sat in the sun|counted
        <creatures>] together.
        Then, one <weather> <time>, there was a <size> green leaf. [It grew and grew|Every day, it was bigger].
        At the end of summer, there was {crop}! {name} [danced|jumped|laughed], and {fname} [clapped|sang a <look>
        song|called all the <creatures>].
        {Elder} made {seed} {dish}, and [everyone|all their friends|all the <creatures>] came to eat.
        """,
        "{name} learned that [good things take time|you have to wait for the best things].",
    ),
    Plot(  # the race
        """
        {name} was slow, and {fname} the {fkind} was fast. "I am [the best|faster than you]!" {fname} [always
        said|said every day].
        @day {elder} made a race to {place}. [All the <creatures> came to watch|The <creatures> and the <creatures>
        came to watch|The prize was <meal>].
        "One, two, three, go!" said {elder}. {fname} ran away <fast>. {name} went [slowly|step by step] past a <size>
        <thing>[| and <number> <creatures>].
        Then {he} heard a cry. "[Ouch|Help]!" {fname} had [hurt {fhis} foot|fallen into a <thing>|fallen over a
        <thing>].
        {name} stopped at once. "[Lean on me|Give me your hand|I will help you]," {he} said. They came to {place} side
        by side.
        {Elder} gave the prize to {name}. "[You are the real winner|You have a good heart]," {ehe} said. "[I am
        sorry|Thank you]," <said> {fname}.
        """,
        "{fname} learned that [being kind is better than being fast|winning is not everything].",
    ),
    Plot(  # a present made by hand
        """
        {name} had a friend, a @young{fkind} @named {fname}. [Soon|In <number> days], {fname} would have a birthday.
        {name} wanted to buy a {toy} for {fname}, but {he} had no money. {He} @felt{sad}.
        "[What can I do|What shall I give]?" {he} asked {elder}. "[Make something|The best presents are made by
        hand|You have two good hands]," {ehe} said.
        So {name} [went to {place} and |]looked for <stuff> and <stuff>. @alone
        {He} worked for <number> days and made a [|<look> ]{colour} {toy} with <number> <colour>
        [stars|dots|stripes|flowers|birds] on it.
        On the birthday, there was <meal>, and the <creatures> brought <food>. {name} [was shy|came last] and gave
        {fname} the {toy}.
        "[It is the best present of all|I love it|This is the best {toy} in the world]!" said {fname}. {Fhe} [hugged
        {name}|played with the {colour} {toy} all day].
        """,
        "{name} learned that [a present comes from the heart|what you make with love is never small].",
    ),
    Plot(  # a quarrel
        """
        @day {name} and {his} friend {fname} the {fkind} found a {colour} {toy} {atplace}.
        "It is mine!" said {name}. "No, [it is mine|I saw it first]!" said {fname}. They pulled and pulled, and
        <noise>! The {toy} [fell into the water|fell into a <thing>|flew over a <thing>].
        Now nobody had the {toy}. {name} @felt[{sad}|angry], and {fname} [went home|sat down on a <seat>|began to
        cry].
        "[What is a {toy} without a friend|Is a {toy} worth it|Is that how friends play]?" {elder} asked.
        {name} [thought about it|looked at the ground]. Then {he} went to {fname}. "I am sorry," {he} said. "I am
        sorry too," <said> {fname}.
        @together They took a <size> [stick|rope|ladder|net] and got the {colour} {toy} back.
        Then they took turns. First {fname} played with the {toy}, then {name}[|, and then <number> <creatures>].
        """,
        "They learned that [it is more fun to share|taking turns is better than fighting].",
    ),
    Plot(  # somebody new
        """
        @day a @young{fkind} @named {fname} came to live near {name}. {fname} was [new|shy] and knew nobody.
        The others played {game} {atplace}, but nobody asked {fname}. {Fhe} sat [alone |]<spot> and
        @felt[lonely|{sad}].
        {name} saw {fhim} and [stopped|came over]. "[Hello|Hi], I am {name}," {he} said. "Do you want to play {game}
        with me?"
        "[I do not know how|I have never played it]," said {fname} <softly>. "[It is easy|I will show you]," said
        {name}.
        So they played {game} [all <time>|until the sun went down|for hours]. [The others|The <creatures>] came to
        [watch|play too].
        Then {fname} showed {name} {fhis} [|<look> ]{colour} {toy}. They took the {toy} to [{place}|{elder}].
        @together
        """,
        "{name} learned that [one kind word can make a friend|a new friend is a gift].",
    ),
    Plot(  # losing the way
        """
        @day {name} went to {place} to find {food} for {elder}. {He} followed <number> <colour> <creatures> and did
        not look at the path.
        Soon, {he} was lost. There was only a <size> <thing> and a <look> <thing>. {name} @felt[scared|afraid].
        "[I want to go home|Is anybody there|Please help me]!" {he} [said|cried]. @met
        "[I know the way|I can help you|Come with me]," <said> {fname}. "[First we go past the <colour> <thing>, then
        over the bridge|We go along the river, past the <size> <thing>]."
        @together It got dark, but {fname} [sang a <look> song|told a story about <creatures>|held {his} hand].
        At last, they saw a light. {Elder} stood at the door. "[There you are|I looked for you everywhere|I was so
        {sad}]!" {ehe} said and [hugged|kissed] {name}.
        {name} gave {fname} some {food} to say thank you.
        """,
        "{name} learned [to stay on the path|that help can come from anywhere].",
    ),
)

ENDINGS = (
    """From that day on, {name} and {fname} [were best friends|were the best of friends|played <game> every <time>|went
    to {place} together every <time>].""",
    "[That night|In the evening], {name} [ate <meal>|told {elder} everything] and fell asleep with a smile.",
    "And {name} the {kind} and {fname} the {fkind} [lived happily ever after|were friends for ever].",
    "{name} went home [<glad>|with <food> for everyone]. It had been a [|very ][good|long|wonderful] day. The end.",
    """Then {name} and {fname} [went home|sat by the fire|sat under the stars] and [ate <meal>|ate <food> and
    <food>|played <game>|laughed about it]. The end.""",
    "{name} was [happy|glad], and so was {fname}.[| The end.]",
)
