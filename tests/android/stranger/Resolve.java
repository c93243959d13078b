import java.io.File;
import java.util.Map;
import java.util.stream.Collectors;
import org.gradle.api.Project;
import org.gradle.api.artifacts.Configuration;
import org.gradle.api.artifacts.ResolvedArtifact;
import org.gradle.api.artifacts.result.UnresolvedDependencyResult;
import org.gradle.api.attributes.Attribute;
import org.gradle.api.attributes.AttributeContainer;
import org.gradle.api.attributes.Category;
import org.gradle.api.attributes.Usage;
import org.gradle.api.attributes.java.TargetJvmEnvironment;
import org.gradle.api.plugins.JvmEcosystemPlugin;
import org.gradle.testfixtures.ProjectBuilder;

/**
 * What Gradle itself makes of a dependency: `java Resolve.java FOLDER REPOSITORY,... DEPENDENCY...`, a folder it may write
 * to and others with Maven repositories, beside Maven Central. Prints a line for each file that an Android app compiles
 * against or runs with, and for what cannot be had.
 */
public class Resolve {
    /** Android's plugins ask for androidJvm, which by a rule of theirs a JVM's variant fits; they are not here. */
    private static final Attribute<String> PLATFORM = Attribute.of("org.jetbrains.kotlin.platform.type", String.class);
    private static final Map<String, String> USAGES = Map.of("compile", Usage.JAVA_API, "run", Usage.JAVA_RUNTIME);

    public static void main(String[] arguments) {
        int status = 1;
        try {
            resolve(arguments);
            status = 0;
        } catch (Throwable error) {
            error.printStackTrace();
        }
        System.exit(status); // Gradle's own threads would go on
    }

    private static void resolve(String[] arguments) {
        File folder = new File(arguments[0]);
        Project project =
                ProjectBuilder.builder().withProjectDir(folder).withGradleUserHomeDir(new File(folder, "home")).build();
        project.getPluginManager().apply(JvmEcosystemPlugin.class); // a POM's scopes become what compiling and running need
        for (String repository : arguments[1].split(",")) {
            project.getRepositories().maven(maven -> maven.setUrl(new File(repository)));
        }
        project.getRepositories().mavenCentral();
        for (int at = 2; at < arguments.length; at++) {
            for (String usage : USAGES.keySet()) {
                print(project, usage, arguments[at], usage + at);
            }
        }
    }

    private static void print(Project project, String usage, String dependency, String name) {
        Configuration wanted = project.getConfigurations().create(name);
        AttributeContainer attributes = wanted.getAttributes();
        attributes.attribute(Category.CATEGORY_ATTRIBUTE, project.getObjects().named(Category.class, Category.LIBRARY));
        attributes.attribute(Usage.USAGE_ATTRIBUTE, project.getObjects().named(Usage.class, USAGES.get(usage)));
        attributes.attribute(
                TargetJvmEnvironment.TARGET_JVM_ENVIRONMENT_ATTRIBUTE,
                project.getObjects().named(TargetJvmEnvironment.class, TargetJvmEnvironment.ANDROID));
        attributes.attribute(PLATFORM, "jvm");
        project.getDependencies().add(name, dependency);
        wanted.getIncoming().getResolutionResult().getAllDependencies().forEach(found -> {
            if (found instanceof UnresolvedDependencyResult) {
                System.err.println(((UnresolvedDependencyResult) found).getFailure());
            }
        });
        String missing = wanted.getIncoming().getResolutionResult().getAllDependencies().stream()
                .filter(found -> found instanceof UnresolvedDependencyResult)
                .map(found -> ((UnresolvedDependencyResult) found).getAttempted().getDisplayName())
                .collect(Collectors.joining(", "));
        if (!missing.isEmpty()) {
            System.out.println(usage + " missing " + missing);
            return;
        }
        for (ResolvedArtifact file : wanted.getResolvedConfiguration().getResolvedArtifacts()) {
            System.out.println(usage + " " + file.getModuleVersion().getId() + " " + file.getExtension());
        }
    }
}
