"""What a run can be told, with its defaults, and what is refused."""

import dataclasses
from typing import Annotated, Literal

import tyro

from fkjax.experiment.stopping import Rule
from fkjax.training.fit import Schedule

_folder = tyro.conf.arg(metavar="DIR")


@dataclasses.dataclass(frozen=True)
class Config:
    """Active learning on a biased pool: query, label, train, round after round.

    Runs every strategy on the same pools, pretrained weights and random seeds, and
    reports the test accuracy after each round. The defaults are the paper's for MNIST;
    the digits have smaller ones, each model has its own taps and dropout, and a preset
    has all of them. `--preset NAME --help` shows those of NAME; so do --dataset and
    --model.

    fisher_oracle is shown the hidden labels: a ceiling, not a strategy to deploy.
    Keeping the epoch that is best on the test set is for comparison with the paper,
    which did that; every record says which epoch was kept.
    """

    preset: Literal["none", "paper-mnist", "paper-svhn", "paper-imagenet"] = "none"
    """All settings of one of the paper's experiments; any flag overrides its own."""
    dataset: str = "digits"
    """digits (built in), mnist, fashion_mnist, svhn, cifar10, cifar100, a folder of
    images in DATA_DIR, or a name in TensorFlow Datasets."""
    data_dir: Annotated[str | None, _folder] = None
    """Holds DATASET/, or what TFDS prepares; else $FKJAX_DATA_DIR."""
    image_size: int = 224
    """Height and width to which images of varying size are resized."""
    oracle: Literal["dataset", "file"] = "dataset"
    """Who answers. dataset: its own labels, in an experiment. file: a person, in
    OUTPUT_DIR/to_label.csv or in Label Studio, about the images of IMAGES; each command
    does what it can, says what it waits for, and stops."""
    images: Annotated[str | None, _folder] = None
    """Folder of images of one's own; those that LABELS does not name are the pool."""
    labels: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """CSV file of the labels that are known, with the columns file and label, and
    perhaps set: validation (if not given), train or test."""
    new_classes: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]")
    ] = ()
    """Classes that LABELS lacks and answers may name; so may those that are added to
    OUTPUT_DIR/classes.txt."""
    label_studio: Literal["local-files", "embedded"] = "local-files"
    """How Label Studio gets the images: from a local storage of IMAGES, or within its
    tasks."""
    output_dir: Annotated[str | None, _folder] = None
    """Folder for records and figures; without it, none are written. The same command
    goes on with the run that it holds."""
    overwrite: bool = False
    """Delete the run that OUTPUT_DIR holds, and begin anew."""
    distributed: bool = False
    """This is one of several processes, of which each is started by the same command
    with its own PROCESS_ID, and the first alone writes and speaks."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Where they meet: at the first process; else $JAX_COORDINATOR_ADDRESS, or as JAX
    finds it on Slurm, Open MPI or a TPU; so are the next two."""
    num_processes: int | None = None
    """How many they are; else $JAX_NUM_PROCESSES."""
    process_id: int | None = None
    """Which one this is, from 0 on; else $JAX_PROCESS_ID."""
    strategies: tuple[str, ...] = ("random", "fisher_nearest")
    """Of random; feature_match, fisher_argmax, fisher_nearest, fisher_nearest_joint,
    fisher_oracle; with copies fisher_covariance, fisher_information,
    fisher_information_diagonal; with MC-dropout variation_ratio, entropy, bald,
    mean_std; margin, least_confidence; and adversarial vaal."""
    seeds: int = 5
    """Number of runs of each strategy, with consecutive seeds."""
    seed: int = 0
    """First seed. Every random choice follows from it."""
    side_by_side: Literal["auto", "yes", "no"] = "auto"
    """All seeds of a strategy as one program; auto: on GPU and TPU, not on CPU, nor
    where images are streamed."""
    rounds: int = 10
    """Rounds of query, oracle and training."""
    budget: int = 125
    """Labels bought in each round."""
    stop_when: Literal["budget", "plateau", "target-accuracy", "low-gain"] = "budget"
    """Stop a strategy and seed before the last round, by accuracy on the validation
    set, when it reaches TARGET_ACCURACY; when no round of the last PATIENCE is better
    than all before (plateau); when these gained less than MIN_GAIN (low-gain)."""
    target_accuracy: float = 0.95
    """At which target-accuracy stops, as a fraction."""
    patience: int = 3
    """Rounds that plateau and low-gain look back."""
    min_gain: float = 0.5
    """Below which low-gain stops: points of accuracy (hundredths) per 100 labels."""

    imbalance: Literal["step", "long_tail"] = "step"
    """step: rare classes keep 1/ratio of the others; long_tail: sizes fall by it."""
    imbalance_ratio: float = 100.0
    """How strongly; 1 leaves the pool as it is."""
    rare_classes: Annotated[
        tuple[int, ...] | None, tyro.conf.arg(metavar="INT [INT ...]")
    ] = None
    """Which classes are rare; the second half if not given, as in the paper."""
    label_noise: float = 0.0
    """Probability that the oracle answers with another class."""
    validation_size: int = 10_000
    """Class-balanced images held out of the training part; --train-on-validation apart,
    never trained on."""
    tuning_size: int = 0
    """How many of these only serve --checkpoint-selection tuning."""

    random_share: float = 0.0
    """Of every budget, the share drawn at random: a guard for few validation images."""

    model: str = "lenet"
    """lenet, resnet10, resnet10_7x7 (with the stem of large images) or resnet18."""
    ensemble: int = 1
    """Number of models that are trained and asked as one."""
    taps: tuple[str, ...] = ("conv1", "conv2", "fc1")
    """Activations in the descriptors: conv1, conv2, fc1, logits of lenet; stage1 to
    stage4, pool, logits of the others."""
    passes: int = 128
    """Passes of MC-dropout over the pool, by each model of the ensemble."""
    vaal_steps: int = 1000
    """Training steps of the networks of vaal in each of its queries."""
    copies: int = 128
    """Perturbed copies of each pool image, for fisher_covariance and _information*."""
    pretraining: Literal["rotation", "none"] = "rotation"
    """Self-supervision on the whole pool before the first round."""
    pretraining_epochs: int = 8
    """Epochs of that pretraining on the pool."""
    pretraining_decay_every: int = 3
    """Epochs after which its learning rate drops to a tenth, again and again."""
    epochs: int = 50
    """Epochs of training a round, which starts from the last round's weights."""
    decay_every: int = 15
    """Epochs after which its learning rate drops to a tenth, again and again."""
    batch_size: int = 25
    """Images in a training step."""
    learning_rate: float = 0.05
    """Of stochastic gradient descent."""
    momentum: float = 0.5
    """Of stochastic gradient descent."""
    weight_decay: float = 0.0
    """Added to the gradient, times the weights."""
    conv_dropout: float = 0.25
    """Share of values dropped after each convolution block in all training."""
    dense_dropout: float = 0.5
    """The same before the last layer."""
    precision: Literal["float32", "float64"] = "float32"
    """Of the model, its gradients and the kernel; random draws are the same in both."""
    train_on_validation: bool = False
    """Train on the validation set too: the baseline that has no use for a query."""
    checkpoint_selection: Literal["last", "tuning", "test"] = "last"
    """Epoch kept of each round: the last, or the best on these images."""

    def training(self) -> Schedule:
        """The schedule of each round's training."""
        return Schedule(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            decay_every=self.decay_every,
        )

    def stop_rule(self) -> Rule:
        """What the stop rule is told."""
        return Rule(self.target_accuracy, self.patience, self.min_gain)

    def rotation_pretraining(self) -> Schedule:
        """The schedule of the pretraining."""
        return self.training()._replace(
            epochs=self.pretraining_epochs, decay_every=self.pretraining_decay_every
        )
