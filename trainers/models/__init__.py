"""The models, one file each, and parts of some that are worth a file. What is in TRAINERS is trained by its name.

Its module has

    GOAL       what a search for good settings is to make better
    Settings   a frozen dataclass of numbers, words and switches, each with a default: what `--set` may change
    QUICK      other defaults with --quick, where its own are too much for it (optional)
    train(run: Run, settings: Settings) -> Trained
    survey(run: Run) -> None     where several variants are worth comparing: `python -m trainers survey NAME`
"""

# name: what it learns. TensorFlow is imported only when one is to run.
TRAINERS = {
    "perceptron": "truth tables, XOR among them: threshold units, and a network of two layers",
    "mlp": "handwritten digits of 8x8 pixels: layers of sigmoid units as in 1986, and what came after",
    "digits": "handwritten digits of 8x8 pixels (scikit-learn's load_digits): a small convolutional network",
    "mnist_softmax": "handwritten digits of 28x28 pixels (MNIST): softmax regression, one layer",
    "lenet1989": "handwritten digits of 16x16 pixels (MNIST, shrunk): the convolutional network of LeCun et al., 1989",
    "cnp": "curves from a few of their points, and how sure that is: a conditional neural process",
    "next_word": "the next word of a text: simple recurrent network, LSTM, GRU",
    "alexnet": "colour pictures in ten classes (CIFAR-10), or in 1,000 at full size: AlexNet",
    "resnet_cifar10": "colour pictures of 32x32 pixels in ten classes (CIFAR-10): residual networks",
}
